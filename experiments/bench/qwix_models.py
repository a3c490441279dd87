"""The peer of `experiments.bench.quant`: Linen modules quantized by google's `qwix`.

Its convolutions were tried in all three of its providers, at qwix 0.1.8 on a CPU. `PtqProvider` and
`QtProvider` multiply integers: they refuse W4A8, XLA refuses their int4 convolutions, and static
scales of `QtProvider` break under `jit`, which leaves it W8A8 with scales found anew in each call.
`OdmlQatProvider` rounds floats, as `slim.quant.simulate` does, at all bits and with static scales,
so it is the peer at the same bits. Kept to convolutions and matrix products it rounds at the same
sites as ours, and the network's outputs: to spare it that, the last layer's data have a scale for
each image.
"""

from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax

Variables = dict[str, Any]

CALIBRATIONS = ("minmax", "absmax")
STATISTICS = "quant_stats"
_OPERATIONS = ("conv_general_dilated", "dot_general")


def simulated(
    module: nn.Module,
    weights: str,
    activations: str | None,
    calibration: str,
    last: str,
) -> nn.Module:
    """The module, its convolutions and matrix products rounded; kernels by output channel.

    Args:
        module: a Linen module.
        weights: the type of kernels: `int8` or `int4`.
        activations: that of data, with one scale a site; None for float.
        calibration: how it finds the data's ranges: `minmax` (affine) or `absmax` (symmetric).
        last: the name of the layer that makes the outputs.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    import qwix

    def rule(path: str, static: bool) -> Any:
        data = {
            "act_qtype": activations,
            "act_calibration_method": calibration,
            "act_static_scale": static,
        }
        return qwix.QuantizationRule(
            module_path=path,
            op_names=_OPERATIONS,
            weight_qtype=weights,
            **(data if activations else {}),
        )

    provider = qwix.OdmlQatProvider([rule(last, static=False), rule(".*", static=True)])
    return qwix.quantize_model(module, provider)


def in_integers(module: nn.Module) -> nn.Module:
    """The module for W8A8 training by `QtProvider`: products of integers, gradients of floats.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    import qwix

    rule = qwix.QtRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
    return qwix.quantize_model(module, qwix.QtProvider([rule]))


def calibrated(module: nn.Module, variables: Variables, batches: Iterable[jax.Array]) -> Variables:
    """The variables with the statistics of what `simulated` gave, as evaluated on the batches."""
    observe = jax.jit(
        lambda variables, images: module.apply(variables, images, train=False, mutable=[STATISTICS])
    )
    for images in batches:
        variables = {**variables, **observe(variables, images)[1]}
    return variables


def abstract_weights(module: nn.Module, *inputs: Any) -> Any:
    """How `quantized_weights` is to quantize each parameter: int8 by output channel; no arrays.

    Args:
        module: a Linen module that is called with `train`.
        inputs: shapes of what it is called with.

    Raises:
        ModuleNotFoundError: qwix is not installed.
    """
    import qwix

    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8")
    quantized = qwix.quantize_model(module, qwix.PtqProvider([rule]))
    return jax.eval_shape(
        lambda *inputs: quantized.init(jax.random.key(0), *inputs, train=False), *inputs
    )["params"]


def quantized_weights(params: Any, like: Any) -> Any:
    """The parameters quantized as `abstract_weights` says."""
    import qwix

    return qwix.quantize_params(params, like)

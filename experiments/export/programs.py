"""A network as the Program that a target is given: which of its functions, and what it takes."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.errors import InconclusiveDimensionOperation

from experiments.data.info import IMAGE
from experiments.export.config import AUTO, DYNAMIC
from experiments.export.marked import marked
from experiments.export.places import PLACES
from experiments.network import Network, Variables, prepare
from slim import paths
from slim.export import TARGETS, Program, passes, program
from slim.export.any_batch import any_batch
from slim.moe.dense import dense
from slim.quant import Quantization

INPUT, OUTPUT = "input", "logits"
INTEGERS = ("int8", "int4")
"""Precisions of a network that is quantized; all others are of floats."""


def precision_of(target: str, asked: str, network: Network) -> str:
    """What a target is written in, where a precision was asked for."""
    if asked != AUTO:
        return asked
    listed = TARGETS[target].precisions
    floats = [name for name in listed if name not in INTEGERS]
    wanted = integers_of(network)
    fitting = [name for name in (wanted, INTEGERS[0]) if name in listed] if wanted else []
    return (fitting or floats or listed)[0]


def integers_of(network: Network) -> str | None:
    """The least integers that weights are kept as; None of a float network."""
    if not (network.plans and isinstance(plan := network.plans[-1], Quantization)):
        return None
    formats = {weights.format for weights, _ in plan.specs.values() if weights is not None}
    return "int4" if any(name.endswith("int4") for name in formats) else "int8"


def portable(network: Network) -> Network:
    """The network for one device, whose experts, if they can still be told, all compute."""
    if network.routes and network.before is None:
        module = network.alone.module.clone(mix=dense())
        return replace(network.alone, module=module)
    return network.alone


def build(
    target: str,
    precision: str,
    network: Network,
    variables: Variables,
    *,
    batch: int | str,
    preprocessing: bool,
    calibration: Iterable[Any] | None = None,
) -> Program:
    """The Program of the network's logits.

    Args:
        target: a name of `TARGETS`.
        precision: that it lists.
        network: of these variables.
        variables: on the host.
        batch: as in `ExportConfig`.
        preprocessing: likewise.
        calibration: batches of what the artefact takes, for the ranges of what stands between the
            sites of a network of int8; None: that is left in floats.

    Raises:
        ValueError: weights that are not finite; experts in integers; no trace for any batch; values
            that are not finite on the calibration's batches.
    """
    check_finite(variables)
    if network.routes and network.quantized:
        raise ValueError(
            "experts in integers are not exported: they compute for tokens that are sent to them; "
            "export the stage before it was quantized"
        )
    network = portable(network)
    predict = network.predict
    if network.quantized and precision not in INTEGERS:
        predict = network.differentiable
    elif network.quantized and not PLACES[target].integers:
        predict = marked(network, variables)
    taken = network.modality.stored if preprocessing else network.modality.taken
    sample = jax.ShapeDtypeStruct((1, *network.input_shape), taken)
    made = _traced(partial(_prepared, predict), variables, sample, batch)
    if network.quantized and PLACES[target].integers:
        # Folded, integers of weights would be the floats that they stand for.
        return passes.without_dead(passes.simplify(made))
    made = passes.standard(made)
    if calibration is not None and precision == "int8" and PLACES[target].between:
        return passes.full_integer(made, ((batch,) for batch in calibration))
    return made


def _traced(
    fn: Callable[..., Any], variables: Variables, sample: jax.ShapeDtypeStruct, batch: int | str
) -> Program:
    """For any batch by a symbol, where axes that were cut have none from two numbers."""

    def of(size: int | str) -> Program:
        names = {"input_names": (INPUT,), "output_names": (OUTPUT,)}
        return program(fn, variables, sample, batch=size, **names)

    if batch != DYNAMIC:
        return of(batch)
    try:
        return of("batch")
    except (ValueError, InconclusiveDimensionOperation):
        pass
    try:
        return any_batch(of)
    except InconclusiveDimensionOperation as error:
        raise ValueError(
            f"the model cannot be traced for any batch ({str(error).splitlines()[0]}); give "
            "batch = 1, or another number"
        ) from error


def _prepared(predict: Any, variables: Variables, inputs: jax.Array) -> jax.Array:
    logits: jax.Array = predict(variables, prepare(inputs))
    return logits


def check_finite(variables: Variables) -> None:
    """Refuses variables that are not finite, the first by its path.

    Raises:
        ValueError: see above.
    """
    for path, leaf in paths.flatten(variables).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            raise ValueError(
                f"{path} has numbers that are not finite; train it again, or mend it, before it is "
                "exported"
            )


def takes(network: Network, preprocessing: bool) -> str:
    """What the input is, in words."""
    if network.modality != IMAGE:
        return f"The input is token ids of {network.modality.noun}s, 0 where a text has ended."
    scaled = "bytes, as images are stored" if preprocessing else "pixels in [0, 1]"
    mean, std = (", ".join(f"{x:.4g}" for x in each) for each in (network.mean, network.std))
    return (
        f"The input is {scaled}, a channel last; the mean ({mean}) and the deviation ({std}) of "
        "each channel are taken off inside."
    )

"""Simulated quantization: the same program, its sites' operands rounded to what integers hold.

    sites = assign(graph, policy)
    scales = calibrate(graph, sites, params, batches)
    fn = simulate(graph, sites)
    fn(params, scales, *inputs)

Scales are one more pytree beside the parameters, so they are trained, sharded and saved with them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from slim.graph import Contraction, Graph, rewrite
from slim.quant.numerics import fake_quantize
from slim.quant.policy import Assigned

PyTree = Any


class Scale(NamedTuple):
    """What one operand of a site is rounded by, of a shape as in `QTensor`.

    Attributes:
        scale: float32.
        zero_point: int32, or None where zero is in the middle.
    """

    scale: jax.Array
    zero_point: jax.Array | None


Scales = dict[str, dict[str, Scale]]
"""By site, then by role: `weights` and `data`, or `lhs` and `rhs` of a product of activations."""

Rounding = Callable[[jax.Array, Scale, str], jax.Array]
"""(operand, its scale, the format's name) -> the operand rounded, with gradients to train by."""


def simulate(
    graph: Graph,
    sites: Mapping[str, Assigned],
    *,
    weights: Rounding = lambda x, scale, format: fake_quantize(x, *scale, format),
    data: Rounding = lambda x, scale, format: fake_quantize(x, *scale, format),
) -> Callable[..., Any]:
    """`fn(params, scales, *inputs, **kwargs)`: the function of `graph`, quantized.

    Args:
        graph: of any function of the parameters: the evaluation, or a training loss.
        sites: what each site gets; see `assign`. Sites of the graph that are not there are float.
        weights: how parameters are rounded; all ways give the same numbers, and differ in the
            gradients (`slim.quant.TRAINED`).
        data: how activations are.
    """

    def hook(contract: Contraction, operands: Sequence[Any], scales: Any) -> tuple[Any, Any]:
        rounded = list(operands)
        for role in sites[contract.site.name].roles:
            rounding = weights if role.name == "weights" else data
            rounded[role.operand] = rounding(
                operands[role.operand], scales[role.name], role.spec.format
            )
        return contract(*rounded), scales

    rewritten = rewrite(graph, hook)

    def fn(params: PyTree, scales: Scales, *inputs: Any, **kwargs: Any) -> Any:
        return rewritten(params, scales, *inputs, **kwargs)[0]

    return fn

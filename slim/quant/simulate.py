"""Simulated quantization: the same program, its sites' operands rounded to what integers hold.

    sites = assign(graph, policy)
    scales = calibrate(graph, sites, params, batches)
    fn = simulate(graph, sites)
    fn(params, scales, *inputs)

Scales are one more pytree beside the parameters, so they are trained, sharded and saved with them.
Beside its scales a site may have smoothing factors and a correction; see `slim.quant.state`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from slim.graph import Contraction, Graph, rewrite
from slim.quant.numerics import fake_quantize
from slim.quant.policy import Assigned
from slim.quant.state import corrected, smoothed

PyTree = Any


class Scale(NamedTuple):
    """What one operand of a site is rounded by, of a shape as in `QTensor`.

    Attributes:
        scale: float32.
        zero_point: int32, or None where zero is in the middle.
    """

    scale: jax.Array
    zero_point: jax.Array | None


Scales = dict[str, dict[str, Any]]
"""By site, then by name:

* a `Scale` for each role: `weights` and `data`, or `lhs` and `rhs` of a product of activations;
* perhaps `smoothing`: float32 factors of the inputs, by which the data is divided and the parameter
  multiplied before they are rounded (`smoothquant`, `awq`; made part of it by `calibrate`);
* perhaps `correction`: float32, of a shape that broadcasts with the result, to which it is added
  (`bias_correction`).

Of a site inside scans each has the scans' lengths first.
"""

Rounding = Callable[[jax.Array, Scale, str], jax.Array]
"""(operand, its scale, the format's name) -> the operand rounded, with gradients to train by."""


def _fixed(operand: jax.Array, scale: Scale, format: str) -> jax.Array:
    return fake_quantize(operand, *scale, format)


def _cast(operand: jax.Array, scale: Scale, format: str) -> jax.Array:
    return fake_quantize(operand, jax.lax.stop_gradient(scale.scale), None, format)


def simulate(
    graph: Graph,
    sites: Mapping[str, Assigned],
    *,
    weights: Rounding = _fixed,
    data: Rounding = _fixed,
) -> Callable[..., Any]:
    """`fn(params, scales, *inputs, **kwargs)`: the function of `graph`, quantized.

    Args:
        graph: of any function of the parameters: the evaluation, or a training loss.
        sites: what each site gets; see `assign`. Sites of the graph that are not there are float.
        weights: how parameters are rounded; all ways give the same numbers, and differ in the
            gradients (`slim.quant.TRAINED`). What is cast to 16-bit floats has no scale to train.
        data: how activations are.
    """

    def hook(contract: Contraction, operands: Sequence[Any], scales: Any) -> tuple[Any, Any]:
        assigned = sites[contract.site.name]
        return simulate_site(contract, assigned, operands, scales, weights, data), scales

    rewritten = rewrite(graph, hook)

    def fn(params: PyTree, scales: Scales, *inputs: Any, **kwargs: Any) -> Any:
        return rewritten(params, scales, *inputs, **kwargs)[0]

    return fn


def simulate_site(
    contract: Contraction,
    assigned: Assigned,
    operands: Sequence[Any],
    state: Mapping[str, Any],
    weights: Rounding = _fixed,
    data: Rounding = _fixed,
) -> Any:
    """One site on its float operands: smoothed, rounded as `simulate` says, and corrected."""
    rounded = smoothed(assigned, operands, state)
    for role in assigned.roles:
        rounding = _cast if role.is_cast else weights if role.name == "weights" else data
        rounded[role.operand] = rounding(rounded[role.operand], state[role.name], role.spec.format)
    return corrected(contract(*rounded), state)

r"""Execution: quantized parameters, int8 products summed in int32, one rescaling.

With data x = (n - z) s and weights w = m t (t a scale for each output), a site computes

    sum_k x_k w_k = s t (sum_k n_k m_k - z sum_k m_k)

where the bracket is exact in integers. It is what `simulate` computes in floats, rounding apart.
Where an operand is a 16-bit float, n - z and m are multiplied as such and summed in float32. Where
only the parameter is quantized, it is scaled back to floats, block by block, and the product is
the float one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from slim import paths
from slim.graph import Contraction, Graph, rewrite, site_parameters, used_elsewhere
from slim.quant.numerics import QTensor, dequantize, fake_quantize, quantize
from slim.quant.policy import Assigned
from slim.quant.products import has_product, product
from slim.quant.simulate import Scale, Scales
from slim.quant.state import corrected, smooth_weights, smoothed

PyTree = Any


class Quantized(NamedTuple):
    """A quantized model: what `execute` takes for the parameters.

    Attributes:
        params: the float parameters that are left, in the tree's form; None in place of those that
            only quantized sites use.
        sites: by site, the parameter as `weights: QTensor`; activations' scales by role, smoothing
            and correction as in `Scales`.
    """

    params: PyTree
    sites: dict[str, dict[str, Any]]


def convert(
    graph: Graph, sites: Mapping[str, Assigned], params: PyTree, scales: Scales
) -> Quantized:
    """Parameters as integers, once and for all; pure.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> from slim.quant.calibrate import calibrate
    >>> from slim.quant.policy import Policy, Rule, Weights, assign
    >>> params, x = {"w": jnp.eye(2)}, jnp.array([[1.0, 2.0]])
    >>> graph = trace(lambda p, x: x @ p["w"], params, x)
    >>> sites = assign(graph, Policy((Rule("*", Weights("int4"), None),), edges=None))
    >>> small = convert(graph, sites, params, calibrate(graph, sites, params))
    >>> small.params, small.sites["w"]["weights"].values.tolist()
    ({'w': None}, [[7, 0], [0, 7]])
    >>> execute(graph, sites)(small, x).tolist()
    [[1.0, 2.0]]
    """
    operands = site_parameters(graph, params)
    converted = {}
    for name, given in scales.items():
        made = dict(given)
        if "weights" in given:
            made["weights"] = _quantize(sites[name], operands[name], given)
        converted[name] = made
    fed = [name for name, given in scales.items() if "weights" in given]
    kept = used_elsewhere(graph, fed)
    gone = {path for name in fed for path in sites[name].site.operands[:2] if path} - kept
    rest = paths.map_with_path(lambda path, leaf: None if path in gone else leaf, params)
    return Quantized(rest, converted)


def _quantize(assigned: Assigned, operand: jax.Array, state: Mapping[str, Any]) -> QTensor:
    assert assigned.weights is not None
    format = assigned.weights.format

    def one(w: jax.Array, scale: Scale, factors: jax.Array | None) -> QTensor:
        return quantize(smooth_weights(assigned, w, factors), *scale, format)

    each = assigned.each_round(one)
    quantized: QTensor = each(operand, state["weights"], state.get("smoothing"))
    return quantized


def execute(
    graph: Graph, sites: Mapping[str, Assigned], *, integers: bool = True
) -> Callable[..., Any]:
    """`fn(quantized, *inputs, **kwargs)`: the function of `graph` on what `convert` gives.

    Args:
        graph: of the evaluation function.
        sites: what each site gets; see `assign`.
        integers: whether products are of integers or 16-bit floats where that can be. If not, the
            same numbers are multiplied as the floats that they were, and the function is
            differentiable by its inputs: straight through the rounding.
    """

    def hook(contract: Contraction, operands: Sequence[Any], given: Any) -> tuple[Any, Any]:
        assigned = sites[contract.site.name]
        return run_site(contract, assigned, operands, given, integers=integers), given

    rewritten = rewrite(graph, hook)

    def fn(quantized: Quantized, *inputs: Any, **kwargs: Any) -> Any:
        return rewritten(quantized.params, quantized.sites, *inputs, **kwargs)[0]

    return fn


def run_site(
    contract: Contraction,
    assigned: Assigned,
    operands: Sequence[Any],
    given: Mapping[str, Any],
    *,
    integers: bool = True,
) -> jax.Array:
    """One site on its float operands, and what `convert` made of it; see `execute`."""
    integers = integers and has_product(contract, assigned)
    operands = smoothed(assigned, operands, given)
    stored: list[QTensor | None] = [None, None]
    for role in assigned.roles:
        held: QTensor | Scale = given[role.name]
        if isinstance(held, QTensor):
            stored[role.operand] = held
        elif integers:
            stored[role.operand] = quantize(operands[role.operand], *held, role.spec.format)
        else:
            operands[role.operand] = fake_quantize(operands[role.operand], *held, role.spec.format)
    lhs, rhs = stored
    if integers and lhs is not None and rhs is not None:
        return corrected(product(contract, lhs, rhs), given)
    for place, each in enumerate(stored):
        if each is not None:
            like: Any = contract.eqn.invars[place].aval
            operands[place] = dequantize(each, like.dtype)
    return corrected(contract(*operands), given)

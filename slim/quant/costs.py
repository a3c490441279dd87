"""What each site costs as it is assigned, from the graph alone: the budgets of a bit search.

A new cost is a function as in `Cost` and one line in `COSTS`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from slim.graph import Graph, equation
from slim.graph.cost import CONTRACTIONS
from slim.quant.numerics import find_format
from slim.quant.policy import Assigned

Cost = Callable[[Graph, Mapping[str, Assigned]], dict[str, int]]
"""(graph, what each site got) -> cost by site."""


def weight_bytes(graph: Graph, sites: Mapping[str, Assigned]) -> dict[str, int]:
    """Bytes of each site's parameter: packed values, scales and zero points, as in `QTensor`.

    Of all rounds of the scans around it. A parameter that two sites use counts at both, as
    `convert` makes two of it. One that stays float has its dtype; a product of activations has
    none.

    >>> import jax
    >>> from slim.graph import trace
    >>> from slim.quant.policy import Policy, Rule, Weights, assign
    >>> shape = jax.ShapeDtypeStruct
    >>> graph = trace(lambda p, x: x @ p["w"], {"w": shape((8, 4), "float32")},
    ...               shape((2, 8), "float32"))
    >>> weight_bytes(graph, assign(graph, Policy((Rule("*", Weights("int4")),), edges=None)))
    {'w': 32}
    """
    return {name: _weight_bytes(graph, each) for name, each in sites.items()}


def _weight_bytes(graph: Graph, assigned: Assigned) -> int:
    site, role, rounds = assigned.site, assigned.parameter, math.prod(assigned.site.loops)
    if role is None:
        total = 0
        for path, shape in zip(site.operands[:2], site.shapes, strict=True):
            if path is not None:
                whole = graph.param_shapes[path]
                # All rounds of a scan may use the same parameter.
                entries = min(rounds * math.prod(shape), math.prod(whole.shape))
                total += entries * whole.dtype.itemsize
        return total
    assert assigned.weights is not None
    bits = rounds * math.prod(site.shapes[role.operand]) * find_format(assigned.weights.format).bits
    arrays = 1 if assigned.weights.symmetric else 2  # float32 scales, int32 zero points
    return math.ceil(bits / 8) + 4 * arrays * rounds * math.prod(assigned.scale_shape(role))


def bit_operations(graph: Graph, sites: Mapping[str, Assigned]) -> dict[str, int]:
    """MACs times the bits of one operand times the bits of the other; a float has its dtype's.

    MACs as in `slim.graph.cost`, of all rounds of the scans around a site; every branch of a `cond`
    counts. Van Baalen et al. 2020, arXiv:2005.07093.

    >>> import jax
    >>> from slim.graph import trace
    >>> from slim.quant.policy import Policy, assign
    >>> shape = jax.ShapeDtypeStruct
    >>> graph = trace(lambda p, x: x @ p["w"], {"w": shape((8, 4), "float32")},
    ...               shape((2, 8), "float32"))
    >>> bit_operations(graph, assign(graph, Policy()))  # 2 * 8 * 4 products of 8 and 8 bits
    {'w': 4096}
    """
    return {name: _bit_operations(graph, each) for name, each in sites.items()}


def _bit_operations(graph: Graph, assigned: Assigned) -> int:
    eqn = equation(graph, assigned.site)
    macs, _ = CONTRACTIONS[eqn.primitive.name](eqn)
    operands: list[Any] = [var.aval for var in eqn.invars[:2]]
    bits = [8 * operand.dtype.itemsize for operand in operands]
    for role in assigned.roles:
        bits[role.operand] = find_format(role.spec.format).bits
    return math.prod(assigned.site.loops) * macs * math.prod(bits)


COSTS: Mapping[str, Cost] = {"bytes": weight_bytes, "bit_operations": bit_operations}

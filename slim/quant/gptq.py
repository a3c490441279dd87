"""GPTQ on a graph: every matrix product's weight, by the inputs that it meets in calibration.

    hessians = input_hessians(graph, sites, params, batches)
    small = convert_by_gptq(graph, sites, params, scales, hessians)

Frantar et al. 2022, arXiv:2210.17323.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from slim.graph import Contraction, Graph, rewrite, site_parameters
from slim.quant.gptq_core import gptq
from slim.quant.hessian import input_hessian
from slim.quant.integer import Quantized, convert
from slim.quant.matrices import from_matrix, input_count, inputs, is_matmul, matrix
from slim.quant.numerics import QTensor
from slim.quant.policy import Assigned
from slim.quant.simulate import Scales

PyTree = Any


def input_hessians(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    batches: Iterable[tuple[Any, ...]],
) -> dict[str, jax.Array]:
    """E x x^T of the inputs of every matrix product with a quantized weight, (..., in, in).

    The mean over batches of equal weight; of a site inside scans, one for each round.

    Raises:
        ValueError: no batches.
    """

    def hook(contract: Contraction, operands: Any, total: Any) -> tuple[Any, Any]:
        assigned = sites[contract.site.name]
        return contract(*operands), total + input_hessian(inputs(assigned, operands))

    rewritten = rewrite(graph, hook)
    observe = jax.jit(lambda params, totals, batch: rewritten(params, totals, *batch)[1])
    totals, count = _zeros(sites), 0
    for batch in batches:
        totals, count = observe(params, totals, batch), count + 1
    if count == 0:
        raise ValueError("no calibration batches: GPTQ needs the inputs of at least one")
    return {name: total / count for name, total in totals.items()}


def convert_by_gptq(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    scales: Scales,
    hessians: Mapping[str, jax.Array],
    *,
    damping: float = 0.01,
    by_activation: bool = False,
) -> Quantized:
    """As `convert`, but that matrix products' weights are rounded by GPTQ, others to nearest."""
    quantized = convert(graph, sites, params, scales)
    operands = site_parameters(graph, params)
    chosen = dict(quantized.sites)
    for name, hessian in hessians.items():
        assigned, nearest = sites[name], quantized.sites[name]["weights"]
        assert isinstance(nearest, QTensor)

        def one(
            w: jax.Array, q: QTensor, hessian: jax.Array, assigned: Assigned = assigned
        ) -> QTensor:
            zero = None if q.zero_point is None else matrix(assigned, q.zero_point)
            found = gptq(
                matrix(assigned, w),
                hessian,
                matrix(assigned, q.scale),
                zero,
                q.format,
                damping=damping,
                by_activation=by_activation,
            )
            return replace(q, values=from_matrix(assigned, found.values, w.shape))

        found = assigned.each_round(one)(operands[name], nearest, hessian)
        chosen[name] = {**chosen[name], "weights": found}
    return quantized._replace(sites=chosen)


def _zeros(sites: Mapping[str, Assigned]) -> dict[str, jax.Array]:
    def zeros(assigned: Assigned) -> jax.Array:
        size = input_count(assigned)
        return jnp.zeros((*assigned.site.loops, size, size), jnp.float32)

    return {name: zeros(assigned) for name, assigned in sites.items() if is_matmul(assigned)}

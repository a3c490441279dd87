"""GPTQ on a graph: every matrix product's weight, by the inputs that it meets in calibration.

    hessians = input_hessians(graph, sites, params, batches)
    small = convert_by_gptq(graph, sites, params, scales, hessians)

Frantar et al. 2022, arXiv:2210.17323.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax

from slim.graph import Graph, site_parameters
from slim.quant.gptq_core import gptq
from slim.quant.hessian import input_hessian
from slim.quant.integer import Quantized, convert
from slim.quant.matrices import from_matrix, is_matmul, matrix, rows
from slim.quant.numerics import QTensor
from slim.quant.passes import measure_inputs
from slim.quant.policy import Assigned
from slim.quant.simulate import Scales
from slim.quant.state import smooth_weights

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
    products = {name: assigned for name, assigned in sites.items() if is_matmul(assigned)}
    totals, count = measure_inputs(
        graph, products, params, batches, input_hessian, what="GPTQ needs the inputs of"
    )
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
    """As `convert`, but that matrix products' weights are rounded by GPTQ, others to nearest.

    Of a site with smoothing factors f, the inputs are x / f: their Hessian is H_ij / (f_i f_j).

    Raises:
        ValueError: a correction of one of them, which is of other weights.
    """
    quantized = convert(graph, sites, params, scales)
    operands = site_parameters(graph, params)
    chosen = dict(quantized.sites)
    for name, hessian in hessians.items():
        assigned, state = sites[name], quantized.sites[name]
        if "correction" in state:
            raise ValueError(
                f"site {name!r} has a correction, measured with weights rounded to nearest, which "
                "GPTQ's are not: convert without it"
            )

        def one(
            w: jax.Array,
            q: QTensor,
            hessian: jax.Array,
            factors: jax.Array | None,
            assigned: Assigned = assigned,
        ) -> QTensor:
            zero = None if q.zero_point is None else matrix(assigned, q.zero_point)
            if factors is not None:
                inverse = 1 / rows(assigned, factors)[0]
                hessian = hessian * inverse[:, None] * inverse
            found = gptq(
                matrix(assigned, smooth_weights(assigned, w, factors)),
                hessian,
                matrix(assigned, q.scale),
                zero,
                q.format,
                damping=damping,
                by_activation=by_activation,
            )
            return replace(q, values=from_matrix(assigned, found.values, w.shape))

        each = assigned.each_round(one)
        found = each(operands[name], state["weights"], hessian, state.get("smoothing"))
        chosen[name] = {**state, "weights": found}
    return quantized._replace(sites=chosen)

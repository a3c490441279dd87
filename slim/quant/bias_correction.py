"""Bias correction: what rounding does to the mean of each output is taken back.

Nagel et al. 2019, arXiv:1906.04721, section 4.2, the empirical way.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from slim.graph import Contraction, Graph, rewrite
from slim.quant.matrices import has_parameter
from slim.quant.passes import over_batches
from slim.quant.policy import Assigned
from slim.quant.simulate import Scales, simulate_site
from slim.quant.state import correction_shape

PyTree = Any


def bias_correction(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    scales: Scales,
    batches: Iterable[tuple[Any, ...]],
) -> Scales:
    """The scales with a correction c at each quantized site that has a parameter.

        c_o = E (x @ w)_o - E (quantize(x) @ quantize(w))_o

    for each output o of the parameter (a channel of a convolution), over all else of the result and
    all batches. Both are of the float model's own x, in one pass: a site is corrected for its own
    rounding, not for that of the sites before it. Inside scans each round has its own; corrections
    that were there are replaced.

    Args:
        graph: of the evaluation function.
        sites: what each site gets; see `assign`.
        params: the float parameters.
        scales: of `calibrate`, with smoothing or without.
        batches: tuples of inputs; each entry of a result weighs the same.

    Raises:
        ValueError: no batches.
    """
    plain = {n: {k: v for k, v in each.items() if k != "correction"} for n, each in scales.items()}

    def hook(contract: Contraction, operands: Any, state: PyTree) -> tuple[Any, PyTree]:
        given, mean, count = state
        result = contract(*operands)
        rounded = simulate_site(contract, sites[contract.site.name], operands, given)
        change = result.astype(jnp.float32) - rounded.astype(jnp.float32)
        over = tuple(d for d in range(mean.ndim) if mean.shape[d] == 1)
        entries = change.size / mean.size
        count = count + entries
        now = change.mean(over, keepdims=True)
        return result, (given, mean + (now - mean) * (entries / count), count)

    def nothing(name: str, assigned: Assigned) -> PyTree:
        loops = assigned.site.loops
        mean = jnp.zeros((*loops, *correction_shape(assigned)), jnp.float32)
        return plain[name], mean, jnp.zeros(loops, jnp.float32)

    rewritten = rewrite(graph, hook)
    states, _ = over_batches(
        lambda params, states, *batch: rewritten(params, states, *batch)[1],
        params,
        {name: nothing(name, sites[name]) for name in scales if has_parameter(sites[name])},
        batches,
        what="bias correction needs",
    )
    corrections = {name: {"correction": mean} for name, (_, mean, _) in states.items()}
    return {name: state | corrections.get(name, {}) for name, state in plain.items()}

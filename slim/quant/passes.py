"""Passes over batches: what a float model's sites see, gathered while it runs as it is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from slim.graph import Contraction, Graph, rewrite
from slim.quant.matrices import input_count, inputs
from slim.quant.policy import Assigned

PyTree = Any


def over_batches(
    observe: Callable[..., PyTree],
    params: PyTree,
    states: PyTree,
    batches: Iterable[tuple[Any, ...]],
    *,
    what: str,
) -> tuple[PyTree, int]:
    """The states after all batches, and how many there were.

    Args:
        observe: (params, states, *batch) -> the states after one more batch; is compiled.
        params: the float parameters.
        states: before any batch.
        batches: tuples of inputs; of one shape, or it compiles once for each.
        what: needs them, for the message: `GPTQ needs`.

    Raises:
        ValueError: no batches.
    """
    observe, count = jax.jit(observe), 0
    for batch in batches:
        states, count = observe(params, states, *batch), count + 1
    if count == 0:
        raise ValueError(f"no calibration batches: {what} at least one")
    return states, count


def measure_inputs(
    graph: Graph,
    sites: Mapping[str, Assigned],
    params: PyTree,
    batches: Iterable[tuple[Any, ...]],
    measure: Callable[[jax.Array], PyTree],
    *,
    join: Callable[[jax.Array, jax.Array], jax.Array] = jnp.add,
    what: str,
) -> tuple[dict[str, PyTree], int]:
    """A measure of the inputs of matrix products, joined over batches, and how many there were.

    Args:
        graph: of the evaluation function.
        sites: the matrix products (`is_matmul`) to measure.
        params: the float parameters.
        batches: tuples of inputs.
        measure: inputs (rows, in) -> float32 arrays; of a site inside scans, for each round.
        join: of two measures; begins with zeros.
        what: needs the batches, for the message.

    Raises:
        ValueError: no batches.
    """

    def hook(contract: Contraction, operands: Any, state: PyTree) -> tuple[Any, PyTree]:
        seen = measure(inputs(sites[contract.site.name], operands))
        return contract(*operands), jax.tree.map(join, state, seen)

    def nothing(assigned: Assigned) -> PyTree:
        row = jax.ShapeDtypeStruct((1, input_count(assigned)), jnp.float32)
        return jax.tree.map(
            lambda like: jnp.zeros((*assigned.site.loops, *like.shape), like.dtype),
            jax.eval_shape(measure, row),
        )

    rewritten = rewrite(graph, hook)
    return over_batches(
        lambda params, states, *batch: rewritten(params, states, *batch)[1],
        params,
        {name: nothing(assigned) for name, assigned in sites.items()},
        batches,
        what=what,
    )

"""Equal nodes are computed once, and others as often as they are."""

from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np

from slim.export import passes
from slim.export.program import program

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def test_equal_nodes_are_one() -> None:
    def fn(_: object, x: jax.Array) -> jax.Array:
        first = jnp.where(x > 0.0, jnp.tanh(x), 0.5)
        return first + jnp.where(x > 0.0, jnp.tanh(x), 0.25) * x.sum(-1)[:, None] + x.sum(0)

    made = program(fn, {}, X, batch=3)
    merged = passes.merge_equal(made)
    counts = Counter(node.op for node in merged.nodes)
    assert (counts["gt"], counts["tanh"], counts["select_n"], counts["reduce_sum"]) == (1, 1, 2, 2)
    chex.assert_trees_all_close(merged(X), made(X), rtol=1e-6)

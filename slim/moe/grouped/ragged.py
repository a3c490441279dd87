"""By `jax.lax.ragged_dot`, which XLA lowers to a kernel on TPU.

There work is that of the rows, in the backward pass from libtpu 0.0.50 on (before, weight gradients
take as much as if all experts had all rows). Elsewhere everything takes as much: for tests only.
"""

import jax
import jax.numpy as jnp

from slim.moe.experts import PyTree, RowFn


def by_ragged_dot(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
    """A `Grouped`. XLA leaves rows past the last group undefined; here they are zeros."""
    within = (jnp.arange(x.shape[0]) < sizes.sum())[:, None]

    def matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
        y = jax.lax.ragged_dot(jnp.where(within, x, 0), weight, sizes.astype(jnp.int32))
        return jnp.where(within, y, 0)

    return fn(matmul, weights, x)

"""The least and the greatest number of an array, NaN if it holds one."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def extremes(x: jax.Array, axis: int | Sequence[int] | None = None) -> tuple[jax.Array, jax.Array]:
    """(least, greatest) along `axis`, or of all; (inf, -inf) of nothing. float32.

    >>> [end.tolist() for end in extremes(jnp.array([[1.0, 2.0], [3.0, jnp.nan]]), axis=0)]
    [[1.0, nan], [3.0, nan]]
    """
    x = x.astype(jnp.float32)
    # XLA's minimum and maximum of many numbers lose NaN on CPUs; of pairs they do not.
    unknown = jnp.isnan(x).any(axis)
    low, high = jnp.min(x, axis, initial=jnp.inf), jnp.max(x, axis, initial=-jnp.inf)
    return jnp.where(unknown, jnp.nan, low), jnp.where(unknown, jnp.nan, high)

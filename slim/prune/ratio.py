"""Keep ratios: checking them, and the whole number of weights that one stands for."""

import jax
import jax.numpy as jnp


def check_keep(keep: jax.Array | float, what: str = "keep ratio") -> None:
    """Raise ValueError unless a concrete keep ratio is in (0, 1]; a traced one passes unseen."""
    if isinstance(keep, jax.core.Tracer):
        return
    if not 0.0 < float(keep) <= 1.0:
        raise ValueError(
            f"{what} is {float(keep)}, must be in (0, 1]: it is the share of weights that stays"
        )


def kept_count(keep: jax.Array | float, size: int) -> jax.Array:
    """round(keep * size) as int32, halves to even, in float32 arithmetic; `size` where keep >= 1.

    >>> int(kept_count(0.3, 10))
    3
    """
    keep = jnp.asarray(keep, jnp.float32)
    count = jnp.round(keep * jnp.float32(size)).astype(jnp.int32)
    # float32 holds sizes beyond 2^24 only roughly: keeping all must still keep all.
    return jnp.where(keep >= 1, size, jnp.clip(count, 0, size))

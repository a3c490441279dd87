"""Ranges of weights by name: from all of a tensor to the range that each of its blocks is given.

Weights are there to be looked at, so their ranges need no calibration. A new method is a function
as in `WeightRange` and one line in `WEIGHT_RANGES`.
"""

from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp

from slim.quant.numerics.blocks import reduce_blocks
from slim.quant.numerics.extremes import extremes
from slim.quant.numerics.fake import fake_quantize
from slim.quant.numerics.scales import choose_scale


class WeightRange(Protocol):
    """A weight of any float dtype to (low, high), float32 of `scale_shape`, for `choose_scale`.

    Where a block holds NaN or an infinity they are not finite, whatever the method leaves out.
    """

    def __call__(
        self, w: jax.Array, scale_shape: tuple[int, ...], format: str, symmetric: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The range of each block.

        Raises:
            ValueError: `scale_shape` does not divide w into blocks.
        """


compiled = partial(jax.jit, static_argnames=("scale_shape", "format", "symmetric"))


@compiled
def minmax(
    w: jax.Array, scale_shape: tuple[int, ...], format: str, symmetric: bool
) -> tuple[jax.Array, jax.Array]:
    """The lowest and highest number of each block."""
    del format, symmetric
    return reduce_blocks(extremes, w, scale_shape)


PERCENTILE = 99.9


@compiled
def percentile(
    w: jax.Array, scale_shape: tuple[int, ...], format: str, symmetric: bool
) -> tuple[jax.Array, jax.Array]:
    """The range that leaves out the outermost 0.1% of each block, on each side unless symmetric."""
    w = w.astype(jnp.float32)
    share = PERCENTILE / 100
    if symmetric:
        high = reduce_blocks(partial(jnp.quantile, q=share), jnp.abs(w), scale_shape)
        low = -high
    else:
        low, high = (
            reduce_blocks(partial(jnp.quantile, q=q), w, scale_shape) for q in (1 - share, share)
        )
    least, greatest = minmax(w, scale_shape, format, symmetric)
    finite = jnp.isfinite(least) & jnp.isfinite(greatest)
    return jnp.where(finite, low, least), jnp.where(finite, high, greatest)


SHRINKS = 100


@compiled
def mse(
    w: jax.Array, scale_shape: tuple[int, ...], format: str, symmetric: bool
) -> tuple[jax.Array, jax.Array]:
    """The range that least changes the block, of the min-max range shrunk to 100%, 99% ... 1%.

    argmin over t of sum (w - quantize(w; t low, t high))^2, block by block.
    """
    w = w.astype(jnp.float32)
    low, high = minmax(w, scale_shape, format, symmetric)

    def error(shrink: jax.Array) -> jax.Array:
        scale, zero_point = choose_scale(shrink * low, shrink * high, format, symmetric)
        change = fake_quantize(w, scale, zero_point, format) - w
        return reduce_blocks(jnp.sum, change**2, scale_shape)

    # A scan and not a vmap: one copy of the weight at a time.
    def step(
        best: tuple[jax.Array, jax.Array], shrink: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        found = error(shrink)
        better = found < best[0]
        return (jnp.where(better, found, best[0]), jnp.where(better, shrink, best[1])), None

    first = (error(jnp.float32(1.0)), jnp.ones(scale_shape, jnp.float32))
    shrinks = jnp.arange(SHRINKS - 1, 0, -1).astype(jnp.float32) / SHRINKS
    (_, best), _ = jax.lax.scan(step, first, shrinks)
    return best * low, best * high


WEIGHT_RANGES: dict[str, WeightRange] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}

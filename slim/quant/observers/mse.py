"""The range of least squared quantization error."""

import jax
import jax.numpy as jnp

from slim.quant.numerics import choose_scale, fake_quantize
from slim.quant.observers.histogram import BINS, Histogram, histogram_observer
from slim.quant.observers.observer import Observer, widen

_POINTS_PER_BIN = 4
_PER_OCTAVE = 16
_OCTAVES = 8


def mse(bins: int = BINS) -> Observer:
    """The range of least sum (x - fake_quantize(x))^2, with the format's own rounding.

    Ranges are the extremes times 2^(-k/16), k = 0 ... 128: both shrunk alike, then, for affine,
    each alone in turn. A bin's values are taken as spread evenly over it, whatever the
    distribution. Sung et al. 2015 (arXiv:1511.06488).

    Raises:
        ValueError: bins as `histogram.empty` says.
    """
    return histogram_observer("mse", bins, _clip)


def _clip(histogram: Histogram, format: str, symmetric: bool) -> tuple[jax.Array, jax.Array]:
    # In units of a bin's width: squares neither overflow nor vanish.
    places = jnp.arange(2 * histogram.bins * _POINTS_PER_BIN, dtype=jnp.float32)
    points = (places + 0.5) / _POINTS_PER_BIN - histogram.bins
    weights = jnp.repeat(histogram.counts.astype(jnp.float32), _POINTS_PER_BIN)

    def error(ends: tuple[jax.Array, jax.Array]) -> jax.Array:
        scale, zero_point = choose_scale(*ends, format, symmetric)
        rounded = fake_quantize(
            points, scale[None], None if zero_point is None else zero_point[None], format
        )
        return jnp.sum(weights * jnp.square(points - rounded))

    def best(lows: jax.Array, highs: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = jnp.argmin(jax.lax.map(error, (lows, highs)))
        return lows[chosen], highs[chosen]

    shrink = jnp.exp2(-jnp.arange(_PER_OCTAVE * _OCTAVES + 1, dtype=jnp.float32) / _PER_OCTAVE)
    lows, highs = (end * shrink for end in widen(histogram.used, format, symmetric))
    low, high = best(lows, highs)
    if not symmetric:
        for _ in range(2):
            low, high = best(jnp.full_like(highs, low), highs)
            low, high = best(lows, jnp.full_like(lows, high))
    return low, high

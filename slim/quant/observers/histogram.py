"""A streaming histogram in fixed memory, and the observers that choose where to clip from it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.quant.observers.observer import Extremes, Observer, extremes_of, no_extremes, widen

BINS = 2048
"""Bins on each side of zero: as many as TensorRT's entropy calibration has for |x|."""

_LEAST_EXPONENT = -100


class Histogram(NamedTuple):
    """Counts of values in bins whose width is a power of two, and their extremes.

    The width doubles, and bins merge in pairs, when a batch exceeds the range. Edges of wide bins
    are edges of narrow ones, so the counts are those of one pass over all values at the final
    width, in whatever order the batches come. At the end, the larger of -low and high is in the
    outer half of the bins of its side.

    A count is exact up to 2^32 - 1 and stays there beyond. NaN and infinities are not counted, but
    show in the extremes.

    Attributes:
        counts: (2 * bins,) uint32; counts[bins + k] is of the x != 0 with k <= x / width < k + 1.
        zeros: () uint32, how often x was 0: no range represents it with any error.
        exponent: () int32, width = 2^exponent.
        extremes: of all values.
    """

    counts: jax.Array
    zeros: jax.Array
    exponent: jax.Array
    extremes: Extremes

    @property
    def bins(self) -> int:
        """Bins on each side of zero."""
        return self.counts.shape[-1] // 2

    @property
    def width(self) -> jax.Array:
        """The width of a bin, float32."""
        return jnp.ldexp(jnp.float32(1), self.exponent)

    @property
    def used(self) -> Extremes:
        """The extremes in units of a bin's width, so in [-bins, bins]."""
        scale = jnp.ldexp(jnp.float32(1), -self.exponent)
        return Extremes(self.extremes.low * scale, self.extremes.high * scale)


def empty(bins: int = BINS) -> Histogram:
    """The histogram of nothing.

    Raises:
        ValueError: bins is not a power of two of at least 512 (which leaves 256 in use, as many as
            an 8-bit format has levels).
    """
    if bins < 512 or bins & (bins - 1):
        raise ValueError(f"histogram bins is {bins}, must be a power of two of at least 512")
    return Histogram(
        jnp.zeros(2 * bins, jnp.uint32),
        jnp.uint32(0),
        jnp.int32(_LEAST_EXPONENT),
        no_extremes(),
    )


def add(histogram: Histogram, x: jax.Array) -> Histogram:
    """The histogram with the values of x, of any shape, counted too."""
    bins, (low, high) = histogram.bins, histogram.extremes
    x = x.astype(jnp.float32).ravel()
    batch = extremes_of(x)
    finite = jnp.isfinite(x)
    x = jnp.where(finite, x, 0.0)

    largest = jnp.max(jnp.abs(x), initial=0.0)
    # 2^power is above `largest`, never equal: a value on the outer edge would be in no bin.
    power = jnp.where(largest > 0, jnp.frexp(largest)[1], _LEAST_EXPONENT)
    exponent = jnp.maximum(histogram.exponent, power - (bins.bit_length() - 1))
    # After so many doublings all is in the two bins next to zero, and stays there.
    doublings = jnp.minimum(exponent - histogram.exponent, bins.bit_length())
    counts = jax.lax.fori_loop(0, doublings, lambda _, c: _double(c), histogram.counts)

    place = jnp.floor(x * jnp.ldexp(jnp.float32(1), -exponent)).astype(jnp.int32) + bins
    place = jnp.where(x == 0, 2 * bins, place)
    fresh = jnp.zeros_like(counts).at[place].add(jnp.uint32(1), mode="drop")
    zeros = jnp.sum((x == 0) & finite, dtype=jnp.uint32)
    return Histogram(
        _saturating_sum(counts, fresh),
        _saturating_sum(histogram.zeros, zeros),
        exponent,
        Extremes(jnp.minimum(low, batch.low), jnp.maximum(high, batch.high)),
    )


def fold(histogram: Histogram) -> jax.Array:
    """Counts of |x|, (bins,) uint32: the bin from k to k + 1 widths and the one from -k - 1."""
    bins = histogram.bins
    return _saturating_sum(histogram.counts[bins:], histogram.counts[:bins][::-1])


Clip = Callable[[Histogram, str, bool], tuple[jax.Array, jax.Array]]
"""(histogram, format, symmetric) -> (low, high) in units of a bin's width; what lies beyond the
extremes is cut off afterwards."""


def histogram_observer(name: str, bins: int, clip: Clip) -> Observer:
    """An observer that keeps a `Histogram` and clips where `clip` says."""
    empty(bins)  # raises here rather than at the first batch

    def range_(histogram: Histogram, format: str, symmetric: bool) -> tuple[jax.Array, jax.Array]:
        extremes = widen(histogram.extremes, format, symmetric)
        clipped = (edge * histogram.width for edge in clip(histogram, format, symmetric))
        finite = jnp.isfinite(extremes[0]) & jnp.isfinite(extremes[1])
        low, high = (
            jnp.where(finite, nearest(edge, extreme), extreme)
            for edge, extreme, nearest in zip(
                clipped, extremes, (jnp.maximum, jnp.minimum), strict=True
            )
        )
        return low, high

    return Observer(name, lambda: empty(bins), add, range_)


def _double(counts: jax.Array) -> jax.Array:
    pairs = counts.reshape(-1, 2)
    merged = _saturating_sum(pairs[:, 0], pairs[:, 1])
    return jnp.pad(merged, merged.size // 2)


def _saturating_sum(a: jax.Array, b: jax.Array) -> jax.Array:
    total = a + b
    return jnp.where(total < a, jnp.uint32(2**32 - 1), total)

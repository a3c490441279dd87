"""The range that loses least information: entropy calibration."""

import jax
import jax.numpy as jnp

from slim.quant.numerics import find_format
from slim.quant.observers.histogram import BINS, Histogram, fold, histogram_observer
from slim.quant.observers.observer import Observer


def kl(bins: int = BINS) -> Observer:
    """The T of least KL(P || Q): P of the values clipped at T, Q of them quantized.

    P is the histogram up to T, what lies beyond counted in the outermost bin. Q has the values up
    to T only, merged into the format's levels, each level's count spread evenly over the bins that
    are not empty in P. T runs over the edges of bins that leave a bin or more for each level.
    Symmetric: of |x| in 2^(bits - 1) levels, or of x > 0 in 2^bits for an unsigned format; affine:
    of x from max(low, -T) to min(high, T) in 2^bits levels.

    As in TensorRT (Migacz 2017, "8-bit inference with TensorRT", GTC), which has |x| only, 2048
    bins and 128 levels; but zeros, which every range represents, are left out: else the half of
    the values that a ReLU makes zero would decide alone.

    Raises:
        ValueError: bins as `histogram.empty` says; from `range`, a floating format.
    """
    return histogram_observer("kl", bins, _clip)


def _clip(histogram: Histogram, format: str, symmetric: bool) -> tuple[jax.Array, jax.Array]:
    fmt = find_format(format)
    if not fmt.is_integer:
        raise ValueError(
            f"observer 'kl' merges bins into evenly spaced levels, which format {format!r} does "
            "not have: take 'mse' or 'minmax'"
        )
    bins, counts, levels = histogram.bins, histogram.counts, fmt.high - fmt.low + 1
    zero = bins
    if symmetric:
        counts, levels = fold(histogram) if fmt.is_signed else counts[bins:], fmt.high + 1
        zero = 0
    below, above = _reach(counts[:zero][::-1]), _reach(counts[zero:])
    farthest = jnp.maximum(below, above)

    thresholds = jnp.arange(1, bins + 1, dtype=jnp.int32)
    first, last = zero - jnp.minimum(thresholds, below), zero + jnp.minimum(thresholds, above)
    divergences = _divergences(counts, first, last, levels)
    # Nothing clipped is always allowed.
    allowed = (thresholds == farthest) | ((thresholds < farthest) & (last - first >= levels))
    threshold = thresholds[jnp.argmin(jnp.where(allowed, divergences, jnp.inf))]
    return -threshold.astype(jnp.float32), threshold.astype(jnp.float32)


def _reach(side: jax.Array) -> jax.Array:
    """How many bins, counted from zero outwards, there are up to the last that is not empty."""
    return jnp.max(jnp.where(side > 0, jnp.arange(1, side.size + 1), 0), initial=0)


def _divergences(counts: jax.Array, firsts: jax.Array, lasts: jax.Array, levels: int) -> jax.Array:
    """KL(P || Q) of the bins first <= j < last merged into `levels`, for every such window.

    Infinite where Q is 0 and P is not: where a level's only values are those from outside.
    """
    j = jnp.arange(counts.size)
    # Differences of unsigned sums are right even where the sums wrap around.
    values, filled = _running_sum(counts), _running_sum((counts > 0).astype(jnp.int32))

    def divergence(window: tuple[jax.Array, jax.Array]) -> jax.Array:
        first, last = window
        size = jnp.maximum(last - first, 1)
        ends = jnp.stack([first, last - 1])
        outside = jnp.stack([values[first], values[-1] - values[last]])
        p = jnp.where((j >= first) & (j < last), counts, 0).astype(jnp.float32)
        p = p.at[ends].add(outside.astype(jnp.float32))

        # Level l is of the bins with (j - first) * levels // size == l.
        level = jnp.clip((j - first) * levels // size, 0, levels - 1)
        begin = first + (jnp.arange(levels + 1) * size + levels - 1) // levels
        new = (counts[ends] == 0) & (outside > 0)
        present = jnp.diff(filled[begin]).at[level[ends]].add(new.astype(jnp.int32))
        mass = jnp.diff(values[begin]).astype(jnp.float32)
        q = (mass / jnp.maximum(present, 1).astype(jnp.float32))[level]

        p, q = p / jnp.maximum(p.sum(), 1.0), q / jnp.maximum(mass.sum(), 1.0)
        # As sum p log(p / q) - p + q, whose terms are none negative: small sums stay exact.
        ratio = jnp.where(p > 0, p / jnp.where(p > 0, q, 1.0), 1.0)
        return jnp.sum(jnp.where(p > 0, p * jnp.log(ratio) - p + q, 0.0))

    return jax.lax.map(divergence, (firsts, lasts))


def _running_sum(x: jax.Array) -> jax.Array:
    """The sums of the first 0, 1 ... n entries, in the dtype of x."""
    return jnp.pad(jnp.cumsum(x, dtype=x.dtype), (1, 0))

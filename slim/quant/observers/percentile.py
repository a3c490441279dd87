"""Clip a fixed share of the values."""

import jax
import jax.numpy as jnp

from slim.quant.numerics import find_format
from slim.quant.observers.histogram import BINS, Histogram, fold, histogram_observer
from slim.quant.observers.observer import Observer


def percentile(q: float = 99.99, bins: int = BINS) -> Observer:
    """The range that holds q percent of the values, zeros counted.

    Symmetric: the q-th percentile of |x|, or of max(x, 0) for an unsigned format. Affine: the
    (100 - q) / 2-th and (100 + q) / 2-th of x. To a bin's width, linear within it. Wu et al. 2020
    (arXiv:2004.09602).

    Raises:
        ValueError: q outside (50, 100], or bins as `histogram.empty` says.
    """
    if not 50 < q <= 100:
        raise ValueError(f"percentile q is {q}, must be in (50, 100], in percent")
    outside = 1 - q / 100

    def clip(histogram: Histogram, format: str, symmetric: bool) -> tuple[jax.Array, jax.Array]:
        bins = histogram.bins
        zero_bin = jnp.arange(bins) == 0
        zeros = jnp.where(zero_bin, histogram.zeros.astype(jnp.float32), 0.0)
        upper = histogram.counts[bins:].astype(jnp.float32) + zeros
        lower = histogram.counts[:bins][::-1].astype(jnp.float32)
        total = upper.sum() + lower.sum()
        if not symmetric:
            cut = total * (outside / 2)
            return -_cut_tail(lower, cut), _cut_tail(upper, cut)
        if not find_format(format).is_signed:
            edge = _cut_tail(upper, total * outside)
        else:
            edge = _cut_tail(fold(histogram).astype(jnp.float32) + zeros, total * outside)
        return -edge, edge

    return histogram_observer("percentile", bins, clip)


def _cut_tail(counts: jax.Array, cut: jax.Array) -> jax.Array:
    """Where, in bins, `cut` values are above; 0 if there are not so many."""
    # Summed from the far end, where counts are small and float32 is exact.
    above = jnp.cumsum(counts[::-1])[::-1]
    found = above > cut
    last = counts.size - 1 - jnp.argmax(found[::-1])
    beyond = above[last] - counts[last]
    share = (cut - beyond) / jnp.maximum(counts[last], 1.0)
    edge = (last + 1).astype(jnp.float32) - share
    return jnp.where(found.any(), edge, 0.0)

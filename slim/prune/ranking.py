"""The k largest entries of arrays, exactly, without sorting or gathering them.

A non-negative float32's bits order like an integer, so the k-th largest value is found bit by bit:
31 times, count the values at least as large as a candidate. Each pass is an elementwise comparison
and a sum, so k may be traced, sharded arrays stay where they are, and nothing is copied.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

MAX_RANKED = 2**31 - 1


def keep_largest(
    arrays: Sequence[jax.Array],
    count: jax.Array | int,
    among: Sequence[jax.Array] | None = None,
) -> list[jax.Array]:
    """Masks of exactly the `count` largest entries of all arrays together.

    Among equal entries, earlier arrays and, within one, earlier entries (row-major) are kept.
    NaN ranks above all. `count` is clipped to [0, number of eligible entries].

    Args:
        arrays: non-negative scores, of any shapes.
        count: how many to keep; may be traced.
        among: masks of the entries that are eligible; all by default.

    Raises:
        ValueError: more than 2^31 - 1 entries in all.

    >>> keep_largest([jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0])], 3)
    [Array([ True,  True], dtype=bool), Array([False,  True], dtype=bool)]
    """
    counts = jnp.asarray(count, jnp.int32)[None]
    return _largest(list(arrays), counts, among, rankings=(0,) * len(arrays))


def keep_largest_of_each(
    arrays: Sequence[jax.Array], counts: Sequence[jax.Array | int]
) -> list[jax.Array]:
    """`keep_largest` of every array by itself, all in one pass per bit.

    >>> keep_largest_of_each([jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0])], [1, 2])
    [Array([ True, False], dtype=bool), Array([ True,  True], dtype=bool)]
    """
    stacked = jnp.stack([jnp.asarray(count, jnp.int32) for count in counts])
    return _largest(list(arrays), stacked, None, rankings=tuple(range(len(arrays))))


@partial(jax.jit, static_argnames="rankings")
def _largest(
    arrays: list[jax.Array],
    counts: jax.Array,
    among: Sequence[jax.Array] | None,
    rankings: tuple[int, ...],
) -> list[jax.Array]:
    """Masks of the `counts[r]` largest entries of the arrays i for which `rankings[i]` is r."""

    def per_ranking(numbers: Sequence[jax.Array | int]) -> jax.Array:
        sums: list[jax.Array | int] = [0] * counts.size
        for ranking, number in zip(rankings, numbers, strict=True):
            sums[ranking] += number
        return jnp.stack([jnp.asarray(each, jnp.int32) for each in sums])

    def hits(masks: Sequence[jax.Array]) -> jax.Array:
        return per_ranking([jnp.sum(mask, dtype=jnp.int32) for mask in masks])

    totals = [0] * counts.size
    starts = []
    for ranking, array in zip(rankings, arrays, strict=True):
        starts.append(totals[ranking])
        totals[ranking] += array.size
    if max(totals, default=0) > MAX_RANKED:
        raise ValueError(
            f"{max(totals)} scores ranked together, at most {MAX_RANKED} are allowed: "
            "use a distribution that ranks within each tensor (uniform, erk)"
        )
    bits = [_ordered_bits(array) for array in arrays]
    if among is not None:
        # Below every threshold, all of which are non-negative.
        bits = [jnp.where(mask, b, -1) for b, mask in zip(bits, among, strict=True)]
    eligible = jnp.array(totals, jnp.int32) if among is None else hits(among)
    counts = jnp.clip(counts, 0, eligible)

    def decide_bit(i: jax.Array, thresholds: jax.Array) -> jax.Array:
        candidates = thresholds | (jnp.int32(1) << (30 - i))
        found = hits([b >= candidates[r] for b, r in zip(bits, rankings, strict=True)])
        return jnp.where(found >= counts, candidates, thresholds)

    thresholds = jax.lax.fori_loop(0, 31, decide_bit, jnp.zeros_like(counts))
    above = [b > thresholds[r] for b, r in zip(bits, rankings, strict=True)]
    ties = [b == thresholds[r] for b, r in zip(bits, rankings, strict=True)]

    def before(ends: jax.Array) -> list[jax.Array]:
        each = zip(ties, starts, rankings, strict=True)
        return [tie & (_places(tie.shape, start) < ends[r]) for tie, start, r in each]

    # Of those equal to the threshold the first `wanted`: bisection for the smallest end with as
    # many before it. Where all are wanted, the common case for real scores, there is nothing to
    # look for and no pass over the arrays.
    wanted = counts - hits(above)
    whole = jnp.array(totals, jnp.int32)
    low = jnp.where(wanted == hits(ties), whole, 0)

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = hits(before(middle)) >= wanted
        return jnp.where(enough, low, jnp.minimum(middle + 1, high)), jnp.where(
            enough, middle, high
        )

    ends, _ = jax.lax.while_loop(lambda b: (b[0] < b[1]).any(), halve, (low, whole))
    return [a | b for a, b in zip(above, before(ends), strict=True)]


def _ordered_bits(array: jax.Array) -> jax.Array:
    # abs turns -0.0, whose bits are those of a negative number, into 0.0.
    values = jnp.abs(array.astype(jnp.float32))
    return jax.lax.bitcast_convert_type(values, jnp.int32)


def _places(shape: tuple[int, ...], start: int) -> jax.Array:
    """The row-major number of each entry, from `start`."""
    place = jnp.full(shape, start, jnp.int32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :])
        place += jax.lax.broadcasted_iota(jnp.int32, shape, axis) * stride
    return place

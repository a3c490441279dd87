"""The k largest of many arrays, exactly, without sorting or gathering them.

A non-negative float32's bits order like an integer, so the k-th largest value is found bit by bit:
31 times, count the values at least as large as a candidate. Each pass is an elementwise comparison
and a sum, so k may be traced, sharded arrays stay where they are, and nothing is copied.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

MAX_RANKED = 2**31 - 1


@jax.jit
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
    total = sum(array.size for array in arrays)
    if total > MAX_RANKED:
        raise ValueError(
            f"{total} scores ranked together, at most {MAX_RANKED} are allowed: "
            "use a distribution that ranks within each tensor (uniform, erk)"
        )
    bits = [_ordered_bits(array) for array in arrays]
    if among is not None:
        # Below every threshold, all of which are non-negative.
        bits = [jnp.where(mask, b, -1) for b, mask in zip(bits, among, strict=True)]
    eligible = total if among is None else sum(_count(mask) for mask in among)
    count = jnp.clip(jnp.asarray(count, jnp.int32), 0, eligible)

    def decide_bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        candidate = threshold | (jnp.int32(1) << (30 - i))
        enough = sum(_count(b >= candidate) for b in bits) >= count
        return jnp.where(enough, candidate, threshold)

    threshold = jax.lax.fori_loop(0, 31, decide_bit, jnp.int32(0))
    wanted = count - sum(_count(b > threshold) for b in bits)  # of those equal to the threshold
    masks = []
    for b in bits:
        ties = b == threshold
        taken = jnp.clip(wanted, 0, _count(ties))
        masks.append((b > threshold) | _first(ties, taken))
        wanted = wanted - taken
    return masks


def _ordered_bits(array: jax.Array) -> jax.Array:
    # abs turns -0.0, whose bits are those of a negative number, into 0.0.
    values = jnp.abs(array.astype(jnp.float32))
    return jax.lax.bitcast_convert_type(values, jnp.int32)


def _count(mask: jax.Array) -> jax.Array:
    return jnp.sum(mask, dtype=jnp.int32)


def _first(mask: jax.Array, count: jax.Array) -> jax.Array:
    """The first `count` (at most all) True entries of a mask in row-major order."""
    position = jnp.zeros(mask.shape, jnp.int32)
    for axis in range(mask.ndim):
        stride = math.prod(mask.shape[axis + 1 :])
        position += jax.lax.broadcasted_iota(jnp.int32, mask.shape, axis) * stride

    # Bisection for the smallest end with `count` True entries before it. Nothing to look for, and
    # no pass over the array, unless some but not all are wanted: the common case for real scores.
    some = (count > 0) & (count < _count(mask))
    low = jnp.where(some | (count == 0), 0, mask.size)
    high = jnp.where(count == 0, 0, mask.size)

    def halve(bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = _count(mask & (position < middle)) >= count
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    end, _ = jax.lax.while_loop(lambda b: b[0] < b[1], halve, (low, high))
    return mask & (position < end)

"""From tokens to rows sorted by expert, and back: gathers both ways, and in both passes.

With k experts a token, *pair* t k + i is token t with its i-th expert. A pair's row is where it
lies when pairs are sorted by expert. JAX's gradient of a gather is a scatter-add, slow where it
must be atomic or sequential; that of a permutation is a gather by its inverse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sorted(NamedTuple):
    """Pairs sorted by expert, those of one expert in the order of their tokens.

    Attributes:
        order: `(rows,)` int32, the pair of each row.
        inverse: `(pairs,)` int32, the row of each pair.
        sizes: `(experts,)` int32, the rows of each expert.
    """

    order: jax.Array
    inverse: jax.Array
    sizes: jax.Array


def sort(experts: jax.Array, count: int) -> Sorted:
    """Sort pairs by expert.

    Args:
        experts: `(tokens, k)` integers in [0, count).
        count: of experts.

    >>> [part.tolist() for part in sort(jnp.array([[2, 0], [0, 1]]), 3)]
    [[1, 2, 3, 0], [3, 0, 1, 2], [2, 1, 1]]
    """
    pairs = experts.ravel()
    order = jnp.argsort(pairs).astype(jnp.int32)
    inverse = jnp.argsort(order).astype(jnp.int32)
    sizes = (pairs[:, None] == jnp.arange(count)).sum(0, dtype=jnp.int32)
    return Sorted(order, inverse, sizes)


def buckets(pairs: Sorted, capacity: int) -> Sorted:
    """Give every expert `capacity` rows: its first pairs fill them, the others have none.

    A row without a pair has the number of pairs for its pair, a pair without a row the number of
    rows for its row, so that `permute` reads zeros there; `sizes` counts the rows with a pair.

    >>> [part.tolist() for part in buckets(sort(jnp.array([[0], [0], [1]]), 2), 1)]
    [[0, 2], [0, 2, 1], [1, 1]]
    """
    count, total = pairs.sizes.size, pairs.order.size
    begin = jnp.cumsum(pairs.sizes) - pairs.sizes
    nth = jnp.arange(capacity, dtype=jnp.int32)
    filled = nth < pairs.sizes[:, None]
    order = jnp.where(filled, pairs.order[jnp.where(filled, begin[:, None] + nth, 0)], total)
    place, expert = place_of_rows(pairs.sizes, total)
    row = jnp.where(place < capacity, expert * capacity + place, count * capacity)
    return Sorted(order.ravel(), row[pairs.inverse], jnp.minimum(pairs.sizes, capacity))


def place_of_rows(sizes: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Of each sorted row its place among its expert's, and its expert: `(rows,)` int32 both.

    Rows past the sum of the sizes belong to the last expert, past its end.

    >>> place_of_rows(jnp.array([2, 0, 1]), 3)
    (Array([0, 1, 0], dtype=int32), Array([0, 0, 2], dtype=int32))
    """
    ends = jnp.cumsum(sizes, dtype=jnp.int32)
    row = jnp.arange(rows, dtype=jnp.int32)
    expert = (row[:, None] >= ends[:-1]).sum(1, dtype=jnp.int32)
    return row - (ends - sizes.astype(jnp.int32))[expert], expert


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """Rows in another order, or tokens to the rows of their pairs; zeros past the end.

        y_r = x_(order_r // k),        k = pairs / tokens, 1 for a permutation of rows

    Args:
        x: `(tokens, width)`.
        order: `(rows,)` integers, the pair to read, or at least the number of pairs for zeros.
        inverse: `(pairs,)` integers, the row that reads a pair, or at least the number of rows for
            none.

    Returns:
        `(rows, width)`.
    """
    return _read(x, order // (inverse.size // x.shape[0]))


def _forward(
    x: jax.Array, order: jax.Array, inverse: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, int]]:
    return permute(x, order, inverse), (inverse, x.shape[0])


def _backward(kept: tuple[jax.Array, int], gradient: jax.Array) -> tuple[jax.Array, None, None]:
    inverse, tokens = kept
    by_pair = _read(gradient, inverse)
    if inverse.size == tokens:
        return by_pair, None, None
    return by_pair.reshape(tokens, -1, gradient.shape[1]).sum(1), None, None


permute.defvjp(_forward, _backward)


def _read(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)

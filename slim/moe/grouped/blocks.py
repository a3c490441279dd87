"""By blocks of rows, one after the other, each a dense matmul: for CPU.

A scan over experts, and in it a loop over blocks of the expert's rows, as many as it has: an expert
with few rows takes little time, one without takes none but that of reading its weights. The last
rows are computed in smaller blocks, which reach past the expert's end and are masked. What a block
computes on the way stays in the cache: only x is kept for the backward pass, which computes a block
again, and adds its weight gradients up where the scan writes an expert's.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from slim.moe.experts import PyTree, RowFn
from slim.moe.grouped.varying import alike

# Larger first blocks are no faster; smaller last ones compute fewer rows in vain, but slower.
ROWS = (256, 64)

Carry = TypeVar("Carry")


def blockwise(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
    """A `Grouped`."""
    return _blockwise(fn, *alike((weights, x, sizes)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
    def expert(y: jax.Array, own: tuple[PyTree, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, begin, end = own

        def block(y: jax.Array, at: jax.Array, mine: jax.Array) -> jax.Array:
            return _write(y, at, mine, fn(jnp.matmul, weight, _rows(x, at, mine.size)))

        return _each_block(block, y, begin, end, x.shape[0]), None

    one = jax.tree.map(lambda weight: weight[0], weights)
    like = jax.eval_shape(partial(fn, jnp.matmul), one, x)
    y = alike(jnp.zeros(like.shape, like.dtype), x)
    return lax.scan(expert, y, (weights, *_bounds(sizes)))[0]


def _forward(
    fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, tuple[PyTree, jax.Array, jax.Array]]:
    return _blockwise(fn, weights, x, sizes), (weights, x, sizes)


def _backward(
    fn: RowFn, kept: tuple[PyTree, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[PyTree, jax.Array, None]:
    weights, x, sizes = kept

    def expert(dx: jax.Array, own: tuple[PyTree, jax.Array, jax.Array]) -> tuple[jax.Array, PyTree]:
        weight, begin, end = own

        def block(
            carry: tuple[jax.Array, PyTree], at: jax.Array, mine: jax.Array
        ) -> tuple[jax.Array, PyTree]:
            dx, total = carry
            _, pull = jax.vjp(partial(fn, jnp.matmul), weight, _rows(x, at, mine.size))
            dy = jnp.where(mine[:, None], _rows(gradient, at, mine.size), 0)
            dweight, drows = pull(dy)
            total = jax.tree.map(lambda t, d: t + d.astype(t.dtype), total, dweight)
            return _write(dx, at, mine, drows), total

        zeros = alike(jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weight), x)
        dx, total = _each_block(block, (dx, zeros), begin, end, x.shape[0])
        return dx, jax.tree.map(lambda t, w: t.astype(w.dtype), total, weight)

    dx, dweights = lax.scan(
        expert, alike(jnp.zeros(x.shape, x.dtype), x), (weights, *_bounds(sizes))
    )
    return dweights, dx, None


_blockwise.defvjp(_forward, _backward)


def _bounds(sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each expert's rows begin and end."""
    ends = jnp.cumsum(sizes, dtype=jnp.int32)
    return ends - sizes.astype(jnp.int32), ends


def _each_block(
    body: Callable[[Carry, jax.Array, jax.Array], Carry],
    carry: Carry,
    begin: jax.Array,
    end: jax.Array,
    rows: int,
) -> Carry:
    """`carry = body(carry, at, mine)` for blocks that cover [begin, end), once each row.

    A block begins at `at`; `mine` is `(block,)` bool, the rows that are this block's to write.
    """
    large, small = (min(size, rows) for size in ROWS)
    whole = (end - begin) // large
    rest = begin + whole * large

    def step(i: jax.Array, carry: Carry, begin: jax.Array, size: int) -> Carry:
        first = begin + i * size
        at = jnp.minimum(first, rows - size)
        row = at + jnp.arange(size, dtype=jnp.int32)
        return body(carry, at, (row >= first) & (row < end))

    carry = lax.fori_loop(0, whole, partial(step, begin=begin, size=large), carry)
    parts = -((rest - end) // small)
    return lax.fori_loop(0, parts, partial(step, begin=rest, size=small), carry)


def _rows(x: jax.Array, at: jax.Array, size: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, at, size)


def _write(into: jax.Array, at: jax.Array, mine: jax.Array, values: jax.Array) -> jax.Array:
    values = jnp.where(mine[:, None], values, _rows(into, at, mine.size))
    return lax.dynamic_update_slice_in_dim(into, values, at, 0)

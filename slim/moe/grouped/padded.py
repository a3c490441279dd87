"""By one batched matmul over all experts, each with as many rows as the others: for GPU.

Every expert has SLACK times the mean number of rows to itself. One that has more gets its others in
further passes, as many as the fullest needs, so that no row is lost whatever the router does, and
memory does not depend on it: in balance there is one pass. Only x is kept for the backward pass,
which computes a pass again.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from slim.moe.dispatch import place_of_rows
from slim.moe.experts import PyTree, RowFn
from slim.moe.grouped.varying import alike

SLACK = 1.25
MULTIPLE = 8  # of rows: what tensor cores want


def batched(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
    """A `Grouped`."""
    return _batched(fn, *alike((weights, x, sizes)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _batched(fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array) -> jax.Array:
    slots = _slots(x.shape[0], sizes.size)
    compute = partial(fn, jnp.matmul)

    def one_pass(i: jax.Array, y: jax.Array) -> jax.Array:
        source, place = _places(sizes, i, slots, x.shape[0])
        return y + _unstacked(compute(weights, _read(x, source)), place)

    like = jax.eval_shape(
        compute, weights, jax.ShapeDtypeStruct((sizes.size, 1, x.shape[1]), x.dtype)
    )
    y = alike(jnp.zeros((x.shape[0], like.shape[-1]), like.dtype), x)
    return jax.lax.fori_loop(0, _passes(sizes, slots), one_pass, y)


def _forward(
    fn: RowFn, weights: PyTree, x: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, tuple[PyTree, jax.Array, jax.Array]]:
    return _batched(fn, weights, x, sizes), (weights, x, sizes)


def _backward(
    fn: RowFn, kept: tuple[PyTree, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[PyTree, jax.Array, None]:
    weights, x, sizes = kept
    slots = _slots(x.shape[0], sizes.size)

    def one_pass(i: jax.Array, carry: tuple[PyTree, jax.Array]) -> tuple[PyTree, jax.Array]:
        total, dx = carry
        source, place = _places(sizes, i, slots, x.shape[0])
        _, pull = jax.vjp(partial(fn, jnp.matmul), weights, _read(x, source))
        dweights, drows = pull(_read(gradient, source))
        total = jax.tree.map(lambda t, d: t + d.astype(t.dtype), total, dweights)
        return total, dx + _unstacked(drows, place)

    zeros = jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    carry = alike((zeros, jnp.zeros(x.shape, x.dtype)), x)
    total, dx = jax.lax.fori_loop(0, _passes(sizes, slots), one_pass, carry)
    return jax.tree.map(lambda t, w: t.astype(w.dtype), total, weights), dx, None


_batched.defvjp(_forward, _backward)


def _slots(rows: int, experts: int) -> int:
    """Rows of each expert in a pass."""
    wanted = math.ceil(SLACK * rows / experts / MULTIPLE) * MULTIPLE
    return min(wanted, rows)


def _passes(sizes: jax.Array, slots: int) -> jax.Array:
    return -(-sizes.max() // slots)


def _places(sizes: jax.Array, nth: jax.Array, slots: int, rows: int) -> tuple[jax.Array, jax.Array]:
    """Of the pass `nth`: the row in each slot `(experts, slots)`, and the slot of each row.

    The number of rows stands for none, and so does the number of slots.
    """
    place, expert = place_of_rows(sizes, rows)
    own = nth * slots + jnp.arange(slots, dtype=jnp.int32)
    begin = jnp.cumsum(sizes) - sizes
    source = jnp.where(own < sizes[:, None], begin[:, None] + own, rows)
    here = place - nth * slots
    there = (here >= 0) & (here < slots) & (place < sizes[expert])
    return source, jnp.where(there, expert * slots + here, sizes.size * slots)


def _read(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _unstacked(stacked: jax.Array, place: jax.Array) -> jax.Array:
    """`(experts, slots, width)` back to `(rows, width)`."""
    return _read(stacked.reshape(-1, stacked.shape[-1]), place)

"""Causal attention block by block, exact: FlashAttention-2 (Dao, arXiv:2307.08691) in plain JAX.

Queries and keys come in blocks. Pairs of them are visited one after another, those alone in which
a key is seen: (n + 1) / 2n of all, of n blocks. In memory is one pair's scores at a time, in both
passes; the backward pass computes them again from each query's logarithm of the sum,

    L_i = log sum_j exp s_ij        P_ij = exp(s_ij - L_i)        D_i = sum_v dO_iv O_iv
    dV_j = sum_i P_ij dO_i          dS_ij = P_ij (dO_i . V_j - D_i)
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Triple = tuple[jax.Array, jax.Array, jax.Array]


class Kept(NamedTuple):
    """What the backward pass takes.

    Attributes:
        query: `(batch, length, heads, width)`.
        key: likewise.
        value: `(batch, length, heads, value_width)`.
        mixed: the result, likewise.
        log_sum: L, float32 `(blocks, batch, heads, block)`.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    mixed: jax.Array
    log_sum: jax.Array


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float, block: int, heads: int = 0
) -> jax.Array:
    """softmax(scale query key^T) value, each place seeing itself and those before.

    Args:
        query: `(batch, length, heads, width)`.
        key: likewise.
        value: `(batch, length, heads, value_width)`.
        scale: of the scores.
        block: places in a block.
        heads: so many at a time, the float32 sums of which are in memory; 0: all.

    Returns:
        `(batch, length, heads, value_width)` in the value's dtype; sums are float32.

    Raises:
        ValueError: the blocks do not divide the length, or `heads` not the heads.
    """
    length, count = query.shape[1:3]
    heads = heads or count
    if block < 1 or length % block:
        raise ValueError(f"attention_block is {block}; allowed: a divisor of the length, {length}")
    if heads < 1 or count % heads:
        raise ValueError(f"attention_heads is {heads}; allowed: a divisor of the heads, {count}")
    if heads == count:
        return _attend(query, key, value, scale, block)

    # Every group has heads of all devices, if these are split.
    def grouped(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:2], heads, -1, x.shape[-1]), 3, 0)

    mixed = jax.lax.map(
        lambda of: _attend(*of, scale, block), (grouped(query), grouped(key), grouped(value))
    )
    return jnp.moveaxis(mixed, 0, 3).reshape(value.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float, block: int
) -> jax.Array:
    return _forward(query, key, value, scale, block)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, scale: float, block: int
) -> tuple[jax.Array, Kept]:
    queries, keys, values = (_blocks(x, block) for x in (query, key, value))
    none = jnp.zeros_like(queries[..., 0], jnp.float32).swapaxes(2, 3)
    state = (jnp.zeros_like(values, jnp.float32), jnp.full_like(none, -jnp.inf), none)

    # A query sees some key in the first block that it meets, so that no maximum stays infinite.
    def visit(state: Triple, pair: tuple[jax.Array, jax.Array]) -> tuple[Triple, None]:
        i, j = pair
        mixed, top, total = (x[i] for x in state)
        scores = _scores(queries[i], keys[j], scale, i == j)
        higher = jnp.maximum(top, scores.max(-1))
        weights, kept = jnp.exp(scores - higher[..., None]), jnp.exp(top - higher)
        more = _product("bhqk,bkhv->bqhv", weights.astype(value.dtype), values[j])
        new = (mixed * _last(kept) + more, higher, total * kept + weights.sum(-1))
        mixed, top, total = (x.at[i].set(part) for x, part in zip(state, new, strict=True))
        return (mixed, top, total), None

    (mixed, top, total), _ = jax.lax.scan(visit, state, _pairs(len(queries)))
    result = _joined(mixed / _last(total)).astype(value.dtype)
    # Or XLA keeps the float32 for the backward pass too.
    result = jax.lax.optimization_barrier(result)
    return result, Kept(query, key, value, result, top + jnp.log(total))


def _backward(scale: float, block: int, kept: Kept, gradient: jax.Array) -> Triple:
    arrays = (kept.query, kept.key, kept.value, gradient)
    queries, keys, values, gradients = (_blocks(x, block) for x in arrays)
    both = gradient.astype(jnp.float32) * kept.mixed.astype(jnp.float32)
    mean = _blocks(both.sum(-1), block).swapaxes(2, 3)
    zeros = partial(jnp.zeros_like, dtype=jnp.float32)

    def visit(state: Triple, pair: tuple[jax.Array, jax.Array]) -> tuple[Triple, None]:
        i, j = pair
        of_queries, of_keys, of_values = state
        scores = _scores(queries[i], keys[j], scale, i == j)
        weights = jnp.exp(scores - kept.log_sum[i][..., None])
        of_weights = _product("bqhv,bkhv->bhqk", gradients[i], values[j])
        of_scores = weights * (of_weights - mean[i][..., None]) * jnp.float32(scale)
        weights, of_scores = weights.astype(gradient.dtype), of_scores.astype(gradient.dtype)
        return (
            of_queries.at[i].add(_product("bhqk,bkhd->bqhd", of_scores, keys[j])),
            of_keys.at[j].add(_product("bhqk,bqhd->bkhd", of_scores, queries[i])),
            of_values.at[j].add(_product("bhqk,bqhv->bkhv", weights, gradients[i])),
        ), None

    state = (zeros(queries), zeros(keys), zeros(values))
    state, _ = jax.lax.scan(visit, state, _pairs(len(queries)))
    query, key, value = (_joined(x).astype(gradient.dtype) for x in state)
    return query, key, value


_attend.defvjp(_forward, _backward)


def _scores(query: jax.Array, key: jax.Array, scale: float, same: jax.Array) -> jax.Array:
    """Float32 `(batch, heads, block, block)`; of the same block each sees what is not after it."""
    scores = _product("bqhd,bkhd->bhqk", query, key) * jnp.float32(scale)
    seen = jnp.tri(query.shape[1], dtype=bool) | ~same
    # Added, not chosen by: JAX keeps of each pair what no input changes, which is then small.
    return scores + jnp.where(seen, jnp.float32(0), -jnp.inf)


def _product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _pairs(blocks: int) -> tuple[jax.Array, jax.Array]:
    """Of queries and keys, in which a key is seen; those of a block of queries in order."""
    queries, keys = np.tril_indices(blocks)
    return jnp.asarray(queries, jnp.int32), jnp.asarray(keys, jnp.int32)


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """`(batch, length, ...)` to `(blocks, batch, block, ...)`."""
    return x.reshape(x.shape[0], -1, block, *x.shape[2:]).swapaxes(0, 1)


def _joined(x: jax.Array) -> jax.Array:
    """And back."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _last(x: jax.Array) -> jax.Array:
    """`(..., heads, block)` beside `(..., block, heads, width)`."""
    return x.swapaxes(-1, -2)[..., None]

"""Softmax and means."""

import jax
import jax.numpy as jnp

from slim.export.patterns.pattern import Pattern

Axes = tuple[int, ...]


def _softmax(x: jax.Array, *, axis: int) -> jax.Array:
    return jax.nn.softmax(x, axis)


def _softmax_by_hand(x: jax.Array, *, axis: int) -> jax.Array:
    above = jnp.exp(x - jnp.max(x, axis, keepdims=True))
    return above / jnp.sum(above, axis, keepdims=True)


def _log_softmax(x: jax.Array, *, axis: int) -> jax.Array:
    return jax.nn.log_softmax(x, axis)


def _log_softmax_by_hand(x: jax.Array, *, axis: int) -> jax.Array:
    shifted = x - jnp.max(x, axis, keepdims=True)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


def _log_of_softmax(x: jax.Array, *, axis: int) -> jax.Array:
    return jnp.log(jax.nn.softmax(x, axis))


def _less_logsumexp(x: jax.Array, *, axis: int) -> jax.Array:
    return x - jax.nn.logsumexp(x, axis, keepdims=True)


def _mean(x: jax.Array, *, axes: Axes, keepdims: bool) -> jax.Array:
    return jnp.mean(x, axes, keepdims=keepdims)


LOG_SOFTMAX = Pattern(
    _log_softmax, (_log_softmax, _log_softmax_by_hand, _log_of_softmax, _less_logsumexp)
)
MEAN = Pattern(_mean, (_mean,))
SOFTMAX = Pattern(_softmax, (_softmax, _softmax_by_hand))

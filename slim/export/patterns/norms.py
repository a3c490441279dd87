"""Normalization over a dimension: the product of a variance and of a way to divide by it."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from slim.export.patterns.pattern import Function, Pattern


def _mean(x: jax.Array, axis: int) -> jax.Array:
    return jnp.mean(x, axis, keepdims=True)


def _layer_norm(x: jax.Array, *affine: jax.Array, axis: int, epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 over a dimension, times a scale, plus a bias, if these are given."""
    centred = x - _mean(x, axis)
    y = centred * jax.lax.rsqrt(_mean(jnp.square(centred), axis) + jnp.asarray(epsilon, x.dtype))
    for place, each in enumerate(affine):
        wide = _beside(each, x, axis)
        y = y + wide if place else y * wide
    return y


def _beside(each: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """A row along a dimension, of size one along the others."""
    return jnp.expand_dims(each, [d for d in range(x.ndim) if d != axis])


def _fast(x: jax.Array, axis: int) -> jax.Array:
    return jnp.maximum(0.0, _unclipped(x, axis))


def _unclipped(x: jax.Array, axis: int) -> jax.Array:
    return _mean(jnp.square(x), axis) - jnp.square(_mean(x, axis))


def _two_pass(x: jax.Array, axis: int) -> jax.Array:
    return _mean(jnp.square(x - _mean(x, axis)), axis)


def _var(x: jax.Array, axis: int) -> jax.Array:
    return jnp.var(x, axis, keepdims=True)


VARIANCES = (_fast, _unclipped, _two_pass, _var)

SCALED: tuple[Callable[[jax.Array, jax.Array, jax.Array], jax.Array], ...] = (
    lambda x, variance, scale: x * (jax.lax.rsqrt(variance) * scale),
    lambda x, variance, scale: x * jax.lax.rsqrt(variance) * scale,
    lambda x, variance, scale: x / jnp.sqrt(variance) * scale,
    lambda x, variance, scale: scale * x * jax.lax.rsqrt(variance),
    lambda x, variance, scale: scale * x / jnp.sqrt(variance),
)
"""Of what is centred, a variance with epsilon, and a scale."""

PLAIN: tuple[Callable[[jax.Array, jax.Array], jax.Array], ...] = (
    lambda x, variance: x * jax.lax.rsqrt(variance),
    lambda x, variance: x / jnp.sqrt(variance),
)

Variance = Callable[[jax.Array, int], jax.Array]


def _with_bias(scaled: Function) -> Function:
    def norm(
        x: jax.Array, scale: jax.Array, bias: jax.Array, *, axis: int, epsilon: float
    ) -> jax.Array:
        return scaled(x, scale, axis=axis, epsilon=epsilon) + _beside(bias, x, axis)

    return norm


def _with_scale(way: Callable[..., jax.Array], variance: Variance) -> Function:
    def norm(x: jax.Array, scale: jax.Array, *, axis: int, epsilon: float) -> jax.Array:
        wide = _beside(scale, x, axis)
        return way(x - _mean(x, axis), variance(x, axis) + epsilon, wide)

    return norm


def _alone(way: Callable[..., jax.Array], variance: Variance) -> Function:
    def norm(x: jax.Array, *, axis: int, epsilon: float) -> jax.Array:
        return way(x - _mean(x, axis), variance(x, axis) + epsilon)

    return norm


def _spellings() -> Iterator[Function]:
    scaled = [_with_scale(way, variance) for way in SCALED for variance in VARIANCES]
    yield from map(_with_bias, scaled)
    yield from scaled
    yield from (_alone(way, variance) for way in PLAIN for variance in VARIANCES)


LAYER_NORM = Pattern(_layer_norm, tuple(_spellings()))

"""Activations, entry by entry, as they are written."""

import jax
import jax.numpy as jnp

from slim.export.patterns.pattern import Pattern


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_erf(x: jax.Array) -> jax.Array:
    return 0.5 * x * (1 + jax.lax.erf(x / 2**0.5))


def _gelu_half(x: jax.Array) -> jax.Array:
    return x * (0.5 * (1 + jax.lax.erf(x / 2**0.5)))


def _gelu_last(x: jax.Array) -> jax.Array:
    return x * (1 + jax.lax.erf(x / 2**0.5)) * 0.5


def _gelu_normal(x: jax.Array) -> jax.Array:
    return x * jax.scipy.stats.norm.cdf(x)


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def _gelu_tanh_half(x: jax.Array) -> jax.Array:
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _gelu_tanh_products(x: jax.Array) -> jax.Array:
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def _hard_sigmoid_clipped(x: jax.Array) -> jax.Array:
    return jnp.clip(x / 6 + 0.5, 0.0, 1.0)


def _hard_swish_divided(x: jax.Array) -> jax.Array:
    return x * jax.nn.relu6(x + 3) / 6


def _relu6_upper_first(x: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.minimum(x, 6.0), 0.0)


def _relu6_clamped(x: jax.Array) -> jax.Array:
    return jax.lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype))


def _silu_divided(x: jax.Array) -> jax.Array:
    return x / (1 + jnp.exp(-x))


def _silu_product(x: jax.Array) -> jax.Array:
    return x * (1 / (1 + jnp.exp(-x)))


GELU = Pattern(_gelu, (_gelu, _gelu_erf, _gelu_half, _gelu_last, _gelu_normal))
GELU_TANH = Pattern(_gelu_tanh, (_gelu_tanh, _gelu_tanh_half, _gelu_tanh_products))
HARD_SIGMOID = Pattern(jax.nn.hard_sigmoid, (jax.nn.hard_sigmoid, _hard_sigmoid_clipped))
HARD_SWISH = Pattern(jax.nn.hard_swish, (jax.nn.hard_swish, _hard_swish_divided))
RELU6 = Pattern(jax.nn.relu6, (jax.nn.relu6, _relu6_upper_first, _relu6_clamped))
SILU = Pattern(jax.nn.silu, (jax.nn.silu, _silu_divided, _silu_product))

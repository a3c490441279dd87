r"""How scales are trained: roundings with the same numbers and different gradients.

All pass gradients straight through the rounding to what is inside the range (Bengio et al. 2013,
arXiv:1308.3432). A new one is a function and one line in `TRAINED`.
"""

import math
from collections.abc import Mapping

import jax

from slim.quant.numerics import fake_quantize, find_format, grad_scale
from slim.quant.simulate import Rounding, Scale


def fixed(x: jax.Array, scale: Scale, format: str) -> jax.Array:
    """The scale stays as calibrated: straight-through estimation alone."""
    return fake_quantize(x, jax.lax.stop_gradient(scale.scale), scale.zero_point, format)


def lsq(x: jax.Array, scale: Scale, format: str) -> jax.Array:
    r"""Learned step sizes: ds = g (round(x/s) - x/s) inside the range, g (its end) outside.

    g = 1 / sqrt(n high), n entries a scale. Esser et al. 2020, arXiv:1902.08153.
    """
    count = math.prod(x.shape) / math.prod(scale.scale.shape)
    factor = 1 / math.sqrt(count * find_format(format).high)
    return fake_quantize(x, grad_scale(scale.scale, factor), scale.zero_point, format)


def pact(x: jax.Array, scale: Scale, format: str) -> jax.Array:
    r"""A learned clipping level a = s high: da = 1 where x is clipped, 0 inside.

    Choi et al. 2018, arXiv:1805.06085; on both sides where the format is signed or has a zero
    point. Its L2 penalty on a is weight decay on the scale.
    """
    inside = fake_quantize(x, jax.lax.stop_gradient(scale.scale), scale.zero_point, format)
    both = fake_quantize(jax.lax.stop_gradient(x), scale.scale, scale.zero_point, format)
    within = _within(x, scale, format)
    # Of the derivative by the scale only what is clipped passes.
    through = jax.numpy.where(within, jax.lax.stop_gradient(both), both)
    return inside + through - jax.lax.stop_gradient(through)


def _within(x: jax.Array, scale: Scale, format: str) -> jax.Array:
    def rounded(x: jax.Array) -> jax.Array:
        return fake_quantize(x, *jax.lax.stop_gradient(scale), format)

    _, pullback = jax.vjp(rounded, jax.lax.stop_gradient(x))
    return pullback(jax.numpy.ones_like(x))[0] > 0


TRAINED: Mapping[str, Rounding] = {"fixed": fixed, "lsq": lsq, "pact": pact}

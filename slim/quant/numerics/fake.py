"""Fake quantization: the numbers of a quantized tensor, kept in floats, with gradients to train by.

Rounding has gradient 0 almost everywhere; the straight-through estimator takes it for the identity
(Bengio et al. 2013, arXiv:1308.3432).
"""

from functools import partial

import jax
import jax.numpy as jnp

from slim.quant.numerics.blocks import reduce_blocks
from slim.quant.numerics.formats import find_format
from slim.quant.numerics.qtensor import check_scale, from_grid, steps_from_zero, to_grid


def fake_quantize(
    x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, format: str
) -> jax.Array:
    """`dequantize(quantize(x, ...), x.dtype)` to the bit, with straight-through gradients.

    With n = round(x / scale) + zero_point, which is inside the range if low <= n <= high,

        d/dx      = 1 inside, 0 outside
        d/dscale  = round(x / scale) - x / scale inside, low - zero_point below it,
                    high - zero_point above it

    summed over each scale's block: what the chain rule gives if rounding has derivative 1. It is
    the gradient of learned step sizes (LSQ, Esser et al. 2020, arXiv:1902.08153), but that numbers
    at most half a step past the ends count as inside, so that the largest number of a min-max range
    is not lost to rounding. NaN stays NaN, that a diverging run be seen.

    Args:
        x: of any float dtype; computed in float32.
        scale: float32, of a shape as in `QTensor`.
        zero_point: int32 of the scale's shape, or None.
        format: its name in `FORMATS`.

    Returns:
        An array of the shape and dtype of x.

    Raises:
        ValueError: scale or zero point do not fit x or the format.

    >>> x = jnp.array([0.26, 9.0])
    >>> fake_quantize(x, jnp.array([0.5]), None, "int4").tolist()
    [0.5, 3.5]
    >>> jax.grad(lambda x: fake_quantize(x, jnp.array([0.5]), None, "int4").sum())(x).tolist()
    [1.0, 0.0]
    """
    check_scale(x.shape, scale, zero_point, find_format(format))
    return _fake_quantize(*_varying_alike(x, scale, zero_point), format)


def _axes(array: jax.Array) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying


def _varying_alike(*arrays: jax.Array | None) -> list[jax.Array | None]:
    """The arrays, each varying over the axes of a `shard_map` that any of them varies over.

    A gradient rule must not sum over devices by itself; this makes the cast do it.
    """
    given = [array for array in arrays if array is not None]
    axes = frozenset().union(*map(_axes, given))
    return [
        array
        if array is None or _axes(array) == axes
        else jax.lax.pcast(array, tuple(axes - _axes(array)), to="varying")
        for array in arrays
    ]


# The backward pass keeps x, which its producer most often keeps anyway, and computes the rest
# again: cheaper than two more tensors of activations in memory.
@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _fake_quantize(
    x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, format: str
) -> jax.Array:
    fmt = find_format(format)
    values, _ = to_grid(x, scale, zero_point, fmt)
    values = jnp.clip(values, jnp.float32(fmt.low), jnp.float32(fmt.high))
    if fmt.is_integer:
        values = jnp.where(values == 0, jnp.float32(0.0), values)  # integers have no -0
    return from_grid(values, scale, zero_point).astype(x.dtype)


Residuals = tuple[jax.Array, jax.Array, jax.Array | None]


def _forward(
    x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, format: str
) -> tuple[jax.Array, Residuals]:
    return _fake_quantize(x, scale, zero_point, format), (x, scale, zero_point)


def _backward(
    format: str, residuals: Residuals, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x, scale, zero_point = residuals
    fmt = find_format(format)
    rounded, ratio = to_grid(x, scale, zero_point, fmt)
    clipped = jnp.clip(rounded, jnp.float32(fmt.low), jnp.float32(fmt.high))
    inside = clipped == rounded
    slope = steps_from_zero(clipped, zero_point) - jnp.where(inside, ratio, 0.0)
    to_x = jnp.where(inside, gradient, jnp.zeros_like(gradient))
    to_scale = _sum_blocks(gradient.astype(jnp.float32) * slope, scale.shape)
    return to_x, to_scale, None


def _sum_blocks(x: jax.Array, scale_shape: tuple[int, ...]) -> jax.Array:
    """`reduce_blocks(jnp.sum, x, scale_shape)`, but over the first dimension by a product.

    XLA's CPU code computes what it fuses into a sum one number after the other, and several at once
    what it fuses into a product: with convolutions the sum made a step of training a sixth longer.
    """
    if scale_shape[:1] != (1,):
        return reduce_blocks(jnp.sum, x, scale_shape)
    ones = jnp.ones(x.shape[:1], jnp.float32)
    rest = jnp.tensordot(ones, x, axes=1, precision=jax.lax.Precision.HIGHEST)
    return reduce_blocks(jnp.sum, rest, scale_shape[1:])[None]


_fake_quantize.defvjp(_forward, _backward)


@jax.custom_jvp
def grad_scale(x: jax.Array, factor: jax.Array | float) -> jax.Array:
    """x, whose gradient is multiplied by `factor`.

    LSQ's steps are trained with factor = 1 / sqrt(n * format.high), n the number of entries that
    share the step (Esser et al. 2020, arXiv:1902.08153, section 2.2).

    >>> jax.grad(lambda s: grad_scale(s, 0.25) * 2.0)(jnp.array(3.0)).item()
    0.5
    """
    del factor
    return x


@grad_scale.defjvp
def _grad_scale_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    x, factor = primals
    return x, tangents[0] * jnp.asarray(factor, x.dtype)

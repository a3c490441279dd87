"""A quantized tensor, and the way there and back."""

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp

from slim.quant.numerics.blocks import check_blocks, spread
from slim.quant.numerics.formats import Format, find_format, nearest


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QTensor:
    """A tensor of (values - zero_point) * scale, each block of entries with its own scale.

    What always holds, and what `check` checks:

    * `values` has the dtype of the format, and every value is from format.low to format.high;
    * `scale` is float32, finite and positive, with as many dimensions as `values`, each a divisor
      of theirs: an entry stands for values.shape[d] // scale.shape[d] entries along dimension d.
      So all ones is one scale per tensor, ones along contracted dimensions is one per channel;
    * `zero_point` is None, or int32 of the scale's shape, from format.low to format.high. Floats
      have none.

    A pytree: the arrays are its leaves, the format is static.
    """

    values: jax.Array
    scale: jax.Array
    zero_point: jax.Array | None
    format: str = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that this one stands for."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes once packed: every value in format.bits bits, with scale and zero point."""
        bits = math.prod(self.shape) * find_format(self.format).bits
        extra = [self.scale] if self.zero_point is None else [self.scale, self.zero_point]
        return math.ceil(bits / 8) + sum(a.dtype.itemsize * math.prod(a.shape) for a in extra)


def check(q: QTensor) -> None:
    """Check the invariants of a `QTensor`; of traced or abstract arrays, shapes and dtypes only.

    Raises:
        ValueError: one does not hold.
    """
    fmt = find_format(q.format)
    if q.values.dtype != fmt.dtype:
        raise ValueError(
            f"values of dtype {q.values.dtype} in format {q.format}: must be "
            f"{jnp.dtype(fmt.dtype)}; make them by quantize()"
        )
    check_scale(q.values.shape, q.scale, q.zero_point, fmt)
    if _is_concrete(q.scale) and not (jnp.isfinite(q.scale) & (q.scale > 0)).all():
        raise ValueError(
            f"scale holds {_first(q.scale, ~(jnp.isfinite(q.scale) & (q.scale > 0)))}: scales "
            "must be finite and positive; choose_scale() gives such"
        )
    for name, array in (("values", q.values), ("zero_point", q.zero_point)):
        if array is None or not _is_concrete(array):
            continue
        numbers = array.astype(jnp.float32)
        low, high = jnp.float32(fmt.low), jnp.float32(fmt.high)
        outside = ~((numbers >= low) & (numbers <= high))
        if outside.any():
            raise ValueError(
                f"{name} holds {_first(numbers, outside)} in format {q.format}: must be from "
                f"{fmt.low} to {fmt.high}"
            )


def quantize(x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, format: str) -> QTensor:
    """The nearest `QTensor` to x: values = clip(round(x / scale) + zero_point, low, high).

    Ties round to even. What lies outside the range takes its end. NaN becomes an integer that is
    not specified.

    Args:
        x: of any float dtype; computed in float32.
        scale: float32, of a shape as in `QTensor`.
        zero_point: int32 of the scale's shape, or None.
        format: its name in `FORMATS`.

    Raises:
        ValueError: scale or zero point do not fit x or the format.

    >>> quantize(jnp.array([0.0, 0.26, 9.0]), jnp.array([0.5]), None, "int4").values.tolist()
    [0, 1, 7]
    """
    fmt = find_format(format)
    check_scale(x.shape, scale, zero_point, fmt)
    return QTensor(_stored(x, scale, zero_point, format), scale, zero_point, format)


# Compiled, for one pass over x in place of one an operation.
@partial(jax.jit, static_argnames="format", inline=True)
def _stored(x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, format: str) -> jax.Array:
    fmt = find_format(format)
    rounded, _ = to_grid(x, scale, zero_point, fmt)
    clipped = jnp.clip(rounded, jnp.float32(fmt.low), jnp.float32(fmt.high))
    return clipped.astype(fmt.dtype)


def dequantize(q: QTensor, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """The tensor that q stands for, (values - zero_point) * scale, computed in float32.

    >>> dequantize(QTensor(jnp.array([2], jnp.int8), jnp.array([0.5]), None, "int8")).tolist()
    [1.0]
    """
    return from_grid(q.values.astype(jnp.float32), q.scale, q.zero_point).astype(dtype)


def to_grid(
    x: jax.Array, scale: jax.Array, zero_point: jax.Array | None, fmt: Format
) -> tuple[jax.Array, jax.Array]:
    """round(x / scale) + zero_point before it is clipped, and x / scale, both float32."""
    # A product with the inverse: XLA makes one of some quotients (by a broadcast scalar, by a
    # constant) and not of others, and the bits should not depend on that.
    ratio = x.astype(jnp.float32) * spread(1.0 / scale, x.shape)
    rounded = nearest(ratio, fmt)
    if zero_point is not None:
        rounded = rounded + spread(zero_point.astype(jnp.float32), x.shape)
    return rounded, ratio


def steps_from_zero(values: jax.Array, zero_point: jax.Array | None) -> jax.Array:
    """The float32 values less the zero point."""
    if zero_point is None:
        return values
    return values - spread(zero_point.astype(jnp.float32), values.shape)


def from_grid(values: jax.Array, scale: jax.Array, zero_point: jax.Array | None) -> jax.Array:
    """(values - zero_point) * scale, float32, of float32 values."""
    return steps_from_zero(values, zero_point) * spread(scale, values.shape)


def check_scale(
    shape: tuple[int, ...], scale: jax.Array, zero_point: jax.Array | None, fmt: Format
) -> None:
    """Raise ValueError unless scale and zero point fit a tensor of `shape` and the format."""
    check_blocks(shape, scale.shape)
    if scale.dtype != jnp.float32:
        raise ValueError(f"scale of dtype {scale.dtype}: must be float32, whatever is quantized")
    if zero_point is None:
        return
    if not fmt.is_integer:
        raise ValueError(f"zero_point with format {fmt.name}: floats have none; give None")
    if zero_point.shape != scale.shape or zero_point.dtype != jnp.int32:
        raise ValueError(
            f"zero_point of shape {zero_point.shape} and dtype {zero_point.dtype}: must be int32 "
            f"of the scale's shape {scale.shape}"
        )


def _is_concrete(array: jax.Array) -> bool:
    return not isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct)


def _first(array: jax.Array, where: jax.Array) -> float:
    return float(array.ravel()[jnp.argmax(where.ravel())])

"""Number formats of few bits: which numbers each holds and how one is rounded to it.

A new format is one line in `FORMATS`; a common contract test runs over the table.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Format(NamedTuple):
    """The numbers a stored value may take.

    Attributes:
        name: its name in `FORMATS`.
        bits: how many a value takes in a file.
        low: the lowest number.
        high: the highest number.
        dtype: of the array that holds values in memory, one value an entry.
    """

    name: str
    bits: int
    low: int
    high: int
    dtype: Any

    @property
    def is_integer(self) -> bool:
        """Whether it holds whole numbers at even steps; the others are floats."""
        return bool(jnp.issubdtype(self.dtype, jnp.integer))

    @property
    def is_cast(self) -> bool:
        """Whether numbers are cast to it as they are, with scale one: floats of 16 bits."""
        return self.bits == 16

    @property
    def is_signed(self) -> bool:
        """Whether it holds negative numbers."""
        return self.low < 0


def _signed(bits: int) -> Format:
    return Format(f"int{bits}", bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, jnp.int8)


def _unsigned(bits: int) -> Format:
    return Format(f"uint{bits}", bits, 0, 2**bits - 1, jnp.uint8)


def _float(name: str, dtype: Any) -> Format:
    info = jnp.finfo(dtype)
    return Format(name, int(info.bits), int(float(info.min)), int(float(info.max)), dtype)


FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        *map(_signed, (2, 3, 4, 5, 6, 8)),
        *map(_unsigned, (4, 8)),
        _float("float8_e4m3", jnp.float8_e4m3fn),
        _float("float8_e5m2", jnp.float8_e5m2),
        _float("float16", jnp.float16),
        _float("bfloat16", jnp.bfloat16),
    )
}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        ValueError: there is none.

    >>> find_format("int4")[:4]
    ('int4', 4, -8, 7)
    """
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def nearest(x: jax.Array, fmt: Format) -> jax.Array:
    """The number nearest to x on the format's grid, ties to even, were its range unbounded.

    Args:
        x: float32.
        fmt: an integer format, whose grid is the whole numbers, or a float.

    Returns:
        float32 of the same shape; infinities and NaN stay.
    """
    if fmt.is_integer:
        return jnp.round(x)
    info = jnp.finfo(fmt.dtype)
    if info.nexp == jnp.finfo(jnp.float32).nexp:  # bfloat16
        return jax.lax.reduce_precision(x, int(info.nexp), int(info.nmant))
    # Between powers of two a float's numbers are `step` apart. Computed, not cast: XLA may drop a
    # cast down and up again, and the devices without float8 need no such type.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(bits, jnp.float32)  # 2^floor(log2 |x|)
    # Clipped from above for infinity, which stays infinity.
    power = jnp.clip(power, jnp.float32(info.smallest_normal), jnp.float32(2.0**127))
    step = power * jnp.float32(2.0**-info.nmant)
    return jnp.round(x / step) * step

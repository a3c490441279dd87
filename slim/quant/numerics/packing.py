"""Packing: a checkpoint of 4-bit weights really holds 4 bits a weight.

Values follow one another in C order, in one stream of bits, lowest bit first; the last byte is
filled up with zeros. Signed integers are in two's complement.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from slim.quant.numerics.formats import find_format


def pack(values: jax.Array, format: str) -> jax.Array:
    """The values of a `QTensor` as uint8 of shape (ceil(values.size * bits / 8),).

    >>> pack(jnp.array([1, -1, 2], jnp.int8), "int4").tolist()
    [241, 2]
    """
    fmt = find_format(format)
    stored = jax.lax.bitcast_convert_type(values.ravel(), jnp.uint8).ravel()
    if fmt.bits >= 8:
        return stored
    bits = jnp.unpackbits(stored[:, None], axis=1, count=fmt.bits, bitorder="little")
    return jnp.packbits(bits.ravel(), bitorder="little")


def unpack(packed: jax.Array, format: str, shape: Sequence[int]) -> jax.Array:
    """The values of `shape` that `pack` packed.

    Raises:
        ValueError: `packed` is not as long as such values take.

    >>> unpack(jnp.array([241, 2], jnp.uint8), "int4", (3,)).tolist()
    [1, -1, 2]
    """
    fmt = find_format(format)
    count = math.prod(shape)
    expected = math.ceil(count * fmt.bits / 8)
    if packed.shape != (expected,) or packed.dtype != jnp.uint8:
        raise ValueError(
            f"packed values of shape {packed.shape} and dtype {packed.dtype}: {format} of shape "
            f"{tuple(shape)} takes uint8 of shape ({expected},)"
        )
    if fmt.bits < 8:
        bits = jnp.unpackbits(packed, count=count * fmt.bits, bitorder="little")
        packed = jnp.packbits(bits.reshape(count, fmt.bits), axis=1, bitorder="little")[:, 0]
        if fmt.is_signed:
            # To the top and back: an arithmetic shift copies the sign.
            top = jax.lax.bitcast_convert_type(packed << (8 - fmt.bits), jnp.int8)
            packed = top >> (8 - fmt.bits)
    if fmt.bits > 8:
        packed = packed.reshape(count, -1)
    return jax.lax.bitcast_convert_type(packed, fmt.dtype).reshape(shape)

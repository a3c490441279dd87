"""Packing: a checkpoint of 4-bit weights really holds 4 bits a weight.

Values follow one another in C order, in one stream of bits, lowest bit first; the last byte is
filled up with zeros. Signed integers are in two's complement.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim.quant.numerics.formats import find_format
from slim.quant.numerics.qtensor import QTensor, check


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


def pack_qtensor(q: QTensor) -> dict[str, Any]:
    """A `QTensor` as named arrays, for safetensors, Orbax or np.savez; not under `jit`.

    Returns:
        "values" (packed), "scale", "zero_point" if there is one, "shape" (int64) and "format", the
        format's name in ASCII.
    """
    arrays = {
        "values": pack(q.values, q.format),
        "scale": q.scale,
        "shape": np.asarray(q.shape, np.int64),
        "format": np.frombuffer(q.format.encode("ascii"), np.uint8),
    }
    return arrays if q.zero_point is None else {**arrays, "zero_point": q.zero_point}


def unpack_qtensor(arrays: Mapping[str, Any]) -> QTensor:
    """The `QTensor` that `pack_qtensor` packed.

    Raises:
        ValueError: an array is missing, or they do not fit together.
    """
    missing = [name for name in ("values", "scale", "shape", "format") if name not in arrays]
    if missing:
        raise ValueError(
            f"packed tensor lacks {', '.join(missing)}: it has {', '.join(arrays) or 'nothing'}"
        )
    format = np.asarray(arrays["format"]).tobytes().decode("ascii", errors="replace")
    shape = tuple(np.asarray(arrays["shape"]).tolist())
    zero_point = arrays.get("zero_point")
    q = QTensor(
        values=unpack(jnp.asarray(arrays["values"]), format, shape),
        scale=jnp.asarray(arrays["scale"]),
        zero_point=None if zero_point is None else jnp.asarray(zero_point),
        format=format,
    )
    check(q)
    return q

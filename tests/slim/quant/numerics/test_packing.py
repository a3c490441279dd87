"""Packing, against a stream of bits written out in Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.numerics import FORMATS, pack, unpack


def example(format, shape, seed=0):
    fmt = FORMATS[format]
    stored = np.random.default_rng(seed).integers(0, 2**fmt.bits, shape, np.uint16)
    if fmt.is_integer:
        return (stored.astype(np.int32) + fmt.low).astype(fmt.dtype)
    # The largest are NaN and infinities, or negative.
    return (stored % (120 << fmt.bits - 8)).astype(f"uint{fmt.bits}").view(fmt.dtype)


def bytes_of(values, bits):
    """Python's own integers as the stream of bits."""
    stream = sum(int(v) % 2**bits << i * bits for i, v in enumerate(values.ravel()))
    return stream.to_bytes(math.ceil(values.size * bits / 8), "little")


@pytest.mark.parametrize("shape", [(), (3, 5), (8, 4)])
@pytest.mark.parametrize("format", FORMATS)
def test_packing(format, shape):
    fmt = FORMATS[format]
    values = example(format, shape)
    packed = pack(jnp.asarray(values), format)
    integers = values if fmt.is_integer else values.view(f"uint{fmt.bits}")
    assert np.asarray(packed).tobytes() == bytes_of(integers, fmt.bits)
    again = unpack(packed, format, shape)
    assert (again.dtype, again.shape) == (fmt.dtype, shape)
    assert np.asarray(again).tobytes() == values.tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_packing_under_jit(format):
    values = example(format, (3, 5))
    there = jax.jit(lambda v: pack(v, format))
    back = jax.jit(lambda p: unpack(p, format, (3, 5)))
    np.testing.assert_array_equal(there(values), pack(jnp.asarray(values), format))
    assert np.asarray(back(there(values))).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("format", "shape", "message"),
    [
        ("int3", (3, 3), r"int3 of shape \(3, 3\) takes uint8 of shape \(4,\)"),
        ("int9", (3, 2), "format is 'int9'"),
    ],
)
def test_what_was_not_packed_so_is_refused(format, shape, message):
    packed = pack(jnp.zeros((3, 2), jnp.int8), "int3")
    with pytest.raises(ValueError, match=message):
        unpack(packed, format, shape)

"""Packing, against a stream of bits written out in Python."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from slim.quant.numerics import FORMATS, QTensor, pack, pack_qtensor, unpack, unpack_qtensor


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


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("affine", [False, True])
def test_tensors_survive_a_file(format, affine, tmp_path):
    affine = affine and FORMATS[format].is_integer
    q = QTensor(
        values=jnp.asarray(example(format, (64, 50))),
        scale=jnp.linspace(0.5, 1, 100).reshape(2, 50),
        zero_point=jnp.ones((2, 50), jnp.int32) if affine else None,
        format=format,
    )
    arrays = {name: np.asarray(array) for name, array in pack_qtensor(q).items()}
    path = tmp_path / "packed.safetensors"
    safetensors.numpy.save_file(arrays, path)
    again = unpack_qtensor(safetensors.numpy.load_file(path))
    assert jax.tree.structure(again) == jax.tree.structure(q)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(q), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    # The header names five arrays at most, whatever their sizes.
    assert q.nbytes < path.stat().st_size < q.nbytes + 600


def test_what_was_not_packed_so_is_refused():
    q = QTensor(jnp.zeros((3, 2), jnp.int8), jnp.ones((1, 2)), None, "int3")
    arrays = pack_qtensor(q)
    with pytest.raises(ValueError, match=r"lacks scale, format: it has values, shape"):
        unpack_qtensor({"values": arrays["values"], "shape": arrays["shape"]})
    with pytest.raises(ValueError, match=r"int3 of shape \(3, 3\) takes uint8 of shape \(4,\)"):
        unpack_qtensor({**arrays, "shape": np.array([3, 3])})
    with pytest.raises(ValueError, match=r"scale of shape \(2, 2\)"):
        unpack_qtensor({**arrays, "scale": jnp.ones((2, 2))})
    wider = dataclasses.replace(q, format="int4")
    with pytest.raises(ValueError, match="format is 'int9'"):
        unpack_qtensor({**pack_qtensor(wider), "format": np.frombuffer(b"int9", np.uint8)})

"""Quantizing and back, and what a `QTensor` may be."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.quant.numerics import FORMATS, QTensor, check, dequantize, fake_quantize, pack, quantize
from tests.slim.quant.numerics.test_blocks import blocks

SHAPE = (4, 6)
SCALE_SHAPES = [(1, 1), (1, 6), (2, 6), (4, 3)]


@st.composite
def qtensors(draw, format):
    """Any values, zero points and scales of any size."""
    fmt = FORMATS[format]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(1, 1), (2, 3)]))
    exponent = draw(st.integers(-100, 100))
    scale = (rng.uniform(1, 2, shape) * 2.0**exponent).astype(np.float32)
    if fmt.is_cast:
        scale = np.ones_like(scale)
    zero_point = None
    if fmt.is_integer:
        values = rng.integers(fmt.low, fmt.high, SHAPE, endpoint=True).astype(fmt.dtype)
        if draw(st.booleans()):
            zero_point = rng.integers(fmt.low, fmt.high, shape, np.int32, endpoint=True)
    else:
        stored = f"uint{fmt.bits}"
        values = rng.integers(0, 2**fmt.bits, SHAPE, stored).view(fmt.dtype)
        size = np.abs(values.astype(np.float32))
        # Numbers that are subnormal in float32 may be 0 on a device.
        known = (size == 0) | (np.isfinite(size) & (size >= np.finfo(np.float32).smallest_normal))
        values = np.where(known, values, np.zeros((), fmt.dtype))
    return jax.tree.map(jnp.asarray, QTensor(values, scale, zero_point, format))


@jax.jit
def there_and_back(q):
    return quantize(dequantize(q), q.scale, q.zero_point, q.format)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_quantize_undoes_dequantize(format, data):
    q = data.draw(qtensors(format))
    check(q)
    again = there_and_back(q)
    np.testing.assert_array_equal(
        np.asarray(again.values).view(np.uint8), np.asarray(q.values).view(np.uint8)
    )


@pytest.mark.parametrize("scale_shape", SCALE_SHAPES)
@pytest.mark.parametrize("format", FORMATS)
def test_blocks_are_quantized_as_by_a_loop(format, scale_shape):
    fmt = FORMATS[format]
    rng = np.random.default_rng(0)
    x = rng.normal(size=SHAPE).astype(np.float32)
    scale = rng.uniform(0.5, 2, scale_shape).astype(np.float32) / min(fmt.high * 0.8, 1e6)
    scale = scale.astype(np.float32)
    zero_point = rng.integers(-1, 2, scale_shape).astype(np.int32) if fmt.is_integer else None
    values = np.zeros(SHAPE, fmt.dtype)
    back = np.zeros(SHAPE, np.float32)
    for index, block in blocks(SHAPE, scale_shape):
        ratio = x[block] * (np.float32(1) / scale[index])
        if fmt.is_integer:
            steps = np.clip(np.rint(ratio) + zero_point[index], fmt.low, fmt.high)
            values[block] = steps.astype(fmt.dtype)
            back[block] = (steps - zero_point[index]).astype(np.float32) * scale[index]
        else:
            values[block] = np.clip(ratio, fmt.low, fmt.high).astype(fmt.dtype)
            back[block] = values[block].astype(np.float32) * scale[index]
    zero = None if zero_point is None else jnp.asarray(zero_point)
    q = quantize(jnp.asarray(x), jnp.asarray(scale), zero, format)
    np.testing.assert_array_equal(np.asarray(q.values).view(np.uint8), values.view(np.uint8))
    np.testing.assert_array_equal(np.asarray(dequantize(q)), back)


def test_ties_fall_alike_however_it_is_computed():
    """Half way between two steps one bit of x / scale decides, and XLA has two ways to divide."""
    x = (np.arange(-100, 100).astype(np.float32) + 0.5)[:, None]
    for step in np.random.default_rng(0).uniform(0.01, 1, 10).astype(np.float32):
        scale = jnp.full((1, 1), step)
        ties = jnp.asarray(x * step)
        expected = quantize(ties, scale, None, "int8").values
        whole = jnp.full(x.shape, step)
        for found in (
            quantize(ties, whole, None, "int8").values,
            jax.jit(lambda x, scale: quantize(x, scale, None, "int8").values)(ties, whole),
            jax.jit(lambda x, scale=scale: quantize(x, scale, None, "int8").values)(ties),
            jnp.round(fake_quantize(ties, whole, None, "int8") / step).astype(jnp.int8),
        ):
            np.testing.assert_array_equal(found, expected)


def test_dequantize_casts_at_the_end():
    q = quantize(jnp.array([1.0, 0.37]), jnp.array([0.01]), None, "int8")
    half = dequantize(q, jnp.bfloat16)
    np.testing.assert_array_equal(
        np.asarray(half), np.asarray(dequantize(q)).astype(ml_dtypes.bfloat16)
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("affine", [True, False])
def test_bytes_are_those_once_packed(format, affine):
    values = jnp.zeros((7, 3), FORMATS[format].dtype)
    zero_point = jnp.zeros((1, 3), jnp.int32) if affine else None
    q = QTensor(values, jnp.ones((1, 3)), zero_point, format)
    assert q.nbytes == pack(values, format).nbytes + 3 * 4 * (2 if affine else 1)
    assert q.shape == (7, 3)
    assert jax.eval_shape(lambda q: q, q).nbytes == q.nbytes


GOOD = QTensor(jnp.zeros((4, 2), jnp.int8), jnp.ones((2, 2)), jnp.zeros((2, 2), jnp.int32), "int4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "int7"}, r"format is 'int7'"),
        ({"values": jnp.zeros((4, 2), jnp.int32)}, r"values of dtype int32 .*must be int8"),
        ({"values": jnp.full((4, 2), 8, jnp.int8)}, r"values holds 8.0 .*int4: .*from -8 to 7"),
        ({"values": jnp.zeros((3, 2), jnp.int8)}, r"scale of shape \(2, 2\) .*\(3, 2\)"),
        ({"scale": jnp.ones((2,))}, r"scale of shape \(2,\) .*must have 2 dimensions"),
        ({"scale": jnp.ones((2, 2), jnp.bfloat16)}, r"scale of dtype bfloat16: must be float32"),
        ({"scale": jnp.array([[1.0, 0.0]])}, r"zero_point of shape \(2, 2\).*shape \(1, 2\)"),
        ({"scale": jnp.ones((2, 2)).at[1, 0].set(-3.0)}, r"scale holds -3.0: .*positive"),
        ({"scale": jnp.ones((2, 2)).at[1, 0].set(jnp.nan)}, r"scale holds nan: .*finite"),
        ({"zero_point": jnp.zeros((2, 2))}, r"zero_point .*dtype float32: must be int32"),
        ({"zero_point": jnp.full((2, 2), -9)}, r"zero_point holds -9.0"),
        (
            {"values": jnp.zeros((4, 2), jnp.float8_e4m3fn), "format": "float8_e4m3"},
            r"zero_point with format float8_e4m3",
        ),
        (
            {
                "values": jnp.full((4, 2), jnp.nan, jnp.float8_e4m3fn),
                "format": "float8_e4m3",
                "zero_point": None,
            },
            r"values holds nan",
        ),
    ],
)
def test_what_breaks_an_invariant_is_refused(change, message):
    check(GOOD)
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(GOOD, **change))


def test_quantize_refuses_what_does_not_fit():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"scale of shape \(3, 1\)"):
        quantize(x, jnp.ones((3, 1)), None, "int8")
    with pytest.raises(ValueError, match=r"zero_point with format"):
        quantize(x, jnp.ones((1, 1)), jnp.zeros((1, 1), jnp.int32), "float8_e5m2")

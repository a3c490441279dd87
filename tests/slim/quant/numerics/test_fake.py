"""Straight-through gradients, against the formula written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from slim.quant.numerics import (
    FORMATS,
    choose_scale,
    dequantize,
    fake_quantize,
    grad_scale,
    quantize,
)
from tests.slim.quant.numerics.test_blocks import blocks

SHAPE, SCALE_SHAPE = (8, 6), (2, 3)


def example(format, affine, seed=0):
    """Numbers of which some lie outside the range, at both ends."""
    fmt = FORMATS[format]
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 1.5, SCALE_SHAPE).astype(np.float32)
    x = (rng.uniform(-1.6, 1.6, SHAPE) * fmt.high).astype(np.float32)
    zero_point = rng.integers(0, 2, SCALE_SHAPE).astype(np.int32) if affine else None
    return x, scale, zero_point, rng.normal(size=SHAPE).astype(np.float32)


def gradients(x, scale, zero_point, cotangent, format):
    def loss(x, scale):
        return (fake_quantize(x, scale, zero_point, format) * cotangent).sum()

    return jax.grad(loss, (0, 1))(x, scale)


SCALED = [name for name, fmt in FORMATS.items() if not fmt.is_cast]
CASES = [(name, False) for name in SCALED] + [("int4", True), ("uint8", True)]


@pytest.mark.parametrize(("format", "affine"), CASES)
def test_gradients_are_the_formula(format, affine):
    fmt = FORMATS[format]
    x, scale, zero_point, cotangent = example(format, affine)
    to_x, to_scale = gradients(x, scale, zero_point, cotangent, format)
    zero = np.zeros(SCALE_SHAPE) if zero_point is None else zero_point
    # Half the last step at float8's high end: numbers below it round to the end.
    last = {"float8_e4m3": 32, "float8_e5m2": 8192}.get(format, 1)
    regions = set()
    for index, block in blocks(SHAPE, SCALE_SHAPE):
        total = 0.0
        for at in np.ndindex(x[block].shape):
            ratio = float(x[block][at]) / float(scale[index])
            if ratio + zero[index] > fmt.high + last / 2:
                slope, through = fmt.high - zero[index], 0
            elif ratio + zero[index] < fmt.low - (last if fmt.low else 1) / 2:
                slope, through = fmt.low - zero[index], 0
            else:
                rounded = np.rint(ratio) if fmt.is_integer else np.float32(ratio).astype(fmt.dtype)
                slope, through = float(rounded) - ratio, 1
            regions.add((through, np.sign(ratio)))
            assert to_x[block][at] == through * cotangent[block][at]
            total += slope * cotangent[block][at]
        np.testing.assert_allclose(to_scale[index], total, rtol=1e-4, atol=1e-4)
    assert {(0, 1), (0, -1), (1, 1)} <= regions, "the example reaches every case"


def test_gradients_are_those_of_straight_through_rounding():
    """What autodiff makes of clip(round(x / s)) * s whose round has derivative 1."""
    x, scale, _, cotangent = example("int4", affine=False)

    def autodiff(x, scale):
        scale = jnp.repeat(jnp.repeat(scale, 4, axis=0), 2, axis=1)
        ratio = x / scale
        rounded = ratio + jax.lax.stop_gradient(jnp.round(ratio) - ratio)
        return (jnp.clip(rounded, -8.0, 7.0) * scale * cotangent).sum()

    # Where the rounded number is an end, the derivative of clip is a matter of taste.
    ratio = x / np.repeat(np.repeat(scale, 4, axis=0), 2, axis=1)
    at_end = (np.abs(ratio - 7) < 0.5) | (np.abs(ratio + 8) < 0.5)
    assert not at_end.all()
    cotangent = np.where(at_end, 0, cotangent)
    expected = jax.grad(autodiff, (0, 1))(x, scale)
    found = gradients(x, scale, None, cotangent, "int4")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_largest_number_of_a_min_max_range_is_trained():
    largest = np.random.default_rng(0).uniform(0.1, 10, 50).astype(np.float32)
    scale, _ = choose_scale(-largest, largest, "int8", symmetric=True)
    slopes = jax.grad(lambda x: fake_quantize(x, scale, None, "int8").sum())(jnp.asarray(largest))
    assert (slopes == 1).all()


def test_half_precision_keeps_its_dtype_through_the_gradient():
    x, scale, _, cotangent = example("int8", affine=False)
    half, cotangent = jnp.asarray(x, jnp.bfloat16), jnp.asarray(cotangent, jnp.bfloat16)
    to_x, to_scale = gradients(half, scale, None, cotangent, "int8")
    single = gradients(half.astype(jnp.float32), scale, None, cotangent.astype(jnp.float32), "int8")
    assert (to_x.dtype, to_scale.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(to_x.astype(jnp.float32), single[0])
    np.testing.assert_allclose(to_scale, single[1], rtol=1e-5)


@pytest.mark.parametrize("format", ["bfloat16", "float16"])
def test_a_cast_passes_all_gradients(format):
    """But those of numbers that the format does not reach."""
    x = jnp.array([1e-3, -70.3, 65504.0, 1e5, -1e38])
    inside = np.abs(x) <= FORMATS[format].high
    to_x, _ = gradients(x, jnp.ones(1), None, jnp.arange(1.0, 6.0), format)
    np.testing.assert_array_equal(to_x, np.where(inside, np.arange(1.0, 6.0), 0))


def test_nan_is_seen_and_infinities_take_the_ends():
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf, -0.01])
    ends_of = {"int8": (127, -128), "float8_e4m3": (448, -448), "float16": (65504, -65504)}
    for format, ends in ends_of.items():
        fake = fake_quantize(x, jnp.ones(1), None, format)
        np.testing.assert_array_equal(fake[:3], [np.nan, *ends])


def test_negative_zero_is_that_of_the_format():
    x, scale = jnp.array([-0.01, -0.0]), jnp.ones(1)
    for format in FORMATS:
        fake = fake_quantize(x, scale, None, format)
        back = dequantize(quantize(x, scale, None, format))
        np.testing.assert_array_equal(np.signbit(fake), np.signbit(back))


def test_gradients_under_shard_map_are_summed_over_devices():
    """The scale is whole on every device, the numbers are spread over them."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, _, _, _ = example("int4", affine=False)
    scale = jnp.ones((1, 1))

    def loss(x, scale):
        return (fake_quantize(x, scale, None, "int4") ** 2).sum()

    sharded = jax.shard_map(
        lambda x, scale: jax.lax.psum(loss(x, scale), "data"),
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    found = jax.jit(jax.grad(sharded, (0, 1)))(x, scale)
    for one, other in zip(found, jax.grad(loss, (0, 1))(x, scale), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_gradient_scale():
    x = jnp.array([1.5, -2.0], jnp.bfloat16)
    np.testing.assert_array_equal(grad_scale(x, 0.3), x)
    slope = jax.jit(jax.grad(lambda x: (grad_scale(x, 0.25) * x).sum()))(x)
    np.testing.assert_array_equal(slope, 1.25 * np.asarray(x, np.float32))
    assert slope.dtype == jnp.bfloat16

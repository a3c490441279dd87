"""From ranges to scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.quant.numerics import FORMATS, choose_scale, dequantize, quantize

INTEGERS = [name for name, fmt in FORMATS.items() if fmt.is_integer]
numbers = st.floats(-(2.0**60), 2.0**60, width=32)


@pytest.mark.parametrize("format", [name for name, fmt in FORMATS.items() if not fmt.is_cast])
def test_symmetric_scales_map_the_largest_number_to_the_end(format):
    fmt = FORMATS[format]
    low, high = jnp.array([-1.0, -3.0, -2.0]), jnp.array([3.0, 1.0, 5.0])
    scale, zero_point = choose_scale(low, high, format, symmetric=True)
    assert zero_point is None
    largest = [3, 3, 5] if fmt.is_signed else [3, 1, 5]
    np.testing.assert_allclose(scale, np.array(largest) / fmt.high, rtol=1e-6)


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_casts_have_scale_one(format):
    scale, zero_point = choose_scale(jnp.array([-1.0, 0.0]), jnp.array([3.0, 0.0]), format, True)
    np.testing.assert_array_equal(scale, [1, 1])
    assert zero_point is None


def test_negatives_are_no_part_of_an_unsigned_symmetric_range():
    scale, _ = choose_scale(jnp.array([-3.0]), jnp.array([-1.0]), "uint8", symmetric=True)
    assert scale == 1


@pytest.mark.parametrize("format", INTEGERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(pair=st.tuples(numbers, numbers))
def test_affine_scales_hold_zero_exactly_and_cover_the_range(format, pair):
    fmt = FORMATS[format]
    low, high = (np.array([end], np.float32) for end in sorted(pair))
    scale, zero_point = choose_scale(low, high, format, symmetric=False)
    assert scale > 0
    assert fmt.low <= zero_point <= fmt.high
    ends = jnp.concatenate([jnp.asarray(low), jnp.asarray(high), jnp.zeros(1)])
    back = np.asarray(dequantize(quantize(ends, scale, zero_point, format)))
    assert back[2] == 0
    # The zero point is rounded, so an end may lie half a step outside, and rounds half a step.
    if scale != 1:
        assert (np.abs(back - ends) <= float(scale[0]) * 1.001).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-42])
def test_ranges_of_nothing_get_scale_one(symmetric, size):
    scale, _ = choose_scale(jnp.array(-size), jnp.array(size), "int8", symmetric)
    assert scale == 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_the_same_bits_under_jit(symmetric):
    rng = np.random.default_rng(0)
    # The last quarter is symmetric: its zero points are close to half way between two integers.
    high = np.exp(rng.normal(size=4000)).astype(np.float32)
    low = -np.exp(rng.normal(size=4000)).astype(np.float32)
    low[3000:] = -high[3000:]
    for format in INTEGERS:
        eager = choose_scale(low, high, format, symmetric)
        jitted = jax.jit(lambda a, b, f=format: choose_scale(a, b, f, symmetric))(low, high)
        for one, other in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_infinities_are_refused_outside_jit_and_passed_on_inside(symmetric, bad):
    low, high = jnp.array([0.0, -1.0]), jnp.array([1.0, bad])
    with pytest.raises(ValueError, match=r"high .* not finite at 1 of 2 places"):
        choose_scale(low, high, "int8", symmetric)
    with pytest.raises(ValueError, match=r"low .* not finite at 1 of 2 places"):
        choose_scale(-high, -low, "int8", symmetric)
    scale, _ = jax.jit(lambda a, b: choose_scale(a, b, "int8", symmetric))(low, high)
    np.testing.assert_array_equal(jnp.isfinite(scale), [True, False])


def test_bad_ranges_are_refused():
    with pytest.raises(ValueError, match=r"low=2.0 to high=1.0 at place 1: .*calibration data"):
        choose_scale(jnp.array([0.0, 2.0]), jnp.array([1.0, 1.0]), "int8", symmetric=True)
    with pytest.raises(ValueError, match=r"'float8_e4m3': a zero point goes with integers only"):
        choose_scale(jnp.array(0.0), jnp.array(1.0), "float8_e4m3", symmetric=False)

"""Rounding to a format, against the casts of `ml_dtypes`."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from slim.quant.numerics import find_format, quantize
from slim.quant.numerics.formats import nearest

TYPES = {
    "float8_e4m3": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def many_floats():
    """Every 9973rd float32, and the numbers half way between those of each format."""
    spaced = np.arange(0, 2**32, 9973, dtype=np.uint32).view(np.float32)
    halves = []
    for dtype in TYPES.values():
        bits = 8 * np.dtype(dtype).itemsize
        numbers = np.arange(2**bits, dtype=f"uint{bits}").view(dtype).astype(np.float32)
        numbers = np.sort(numbers[np.isfinite(numbers)])
        middle = numbers[1:] / 2 + numbers[:-1] / 2
        halves += [numbers, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    return np.concatenate([spaced, *halves]).astype(np.float32)


@pytest.mark.parametrize(("name", "dtype"), TYPES.items())
def test_a_float_is_the_cast(name, dtype):
    x = many_floats()
    fmt = find_format(name)
    x = x[np.abs(x) <= fmt.high]
    x = x[np.abs(x) >= np.finfo(np.float32).smallest_normal]  # devices may make those 0
    expected = x.astype(dtype)
    rounded = jax.jit(lambda x: nearest(x, fmt))(x)
    np.testing.assert_array_equal(np.asarray(rounded), expected.astype(np.float32))
    stored = jax.jit(lambda x: quantize(x, jnp.ones(1, jnp.float32), None, name).values)(x)
    assert np.asarray(stored).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", TYPES)
def test_a_float_saturates_and_keeps_nan(name):
    fmt = find_format(name)
    beyond = np.nextafter(np.float32(min(fmt.high * 1.2, 3.4028e38)), np.float32(np.inf))
    x = jnp.array([beyond, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    values = quantize(x, jnp.ones(1, jnp.float32), None, name).values.astype(jnp.float32)
    expected = np.array([fmt.high, fmt.high, fmt.low, np.nan], np.float32)
    np.testing.assert_array_equal(values, expected)


def test_integers_round_half_to_even():
    x = jnp.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.6])
    np.testing.assert_array_equal(nearest(x, find_format("int4")), np.rint(np.asarray(x)))


def test_unknown_formats_are_refused():
    with pytest.raises(ValueError, match=r"'int7'; there are int2, .*float8_e5m2"):
        find_format("int7")

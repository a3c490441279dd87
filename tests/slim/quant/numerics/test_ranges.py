"""Ranges of weights, against searches written out in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.numerics import FORMATS, WEIGHT_RANGES, choose_scale, fake_quantize
from tests.slim.quant.numerics.test_blocks import blocks

SHAPE, SCALE_SHAPE = (96, 4), (2, 4)


def weights():
    """Student's t with 3 degrees of freedom: a few numbers far out, so that cutting them pays."""
    return np.random.default_rng(0).standard_t(3, SHAPE).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["minmax", "percentile"])
def test_order_statistics_of_each_block(name, symmetric):
    w = weights()
    low, high = WEIGHT_RANGES[name](jnp.asarray(w), SCALE_SHAPE, "int8", symmetric)
    for index, block in blocks(SHAPE, SCALE_SHAPE):
        if name == "minmax":
            expected = w[block].min(), w[block].max()
        elif symmetric:
            reach = np.percentile(np.abs(w[block]), 99.9)
            expected = -reach, reach
        else:
            expected = np.percentile(w[block], (0.1, 99.9))
        np.testing.assert_allclose((low[index], high[index]), expected, rtol=1e-5)


def squared_error(block, low, high, fmt, symmetric):
    """Of a block quantized to [low, high], in double precision."""
    if symmetric:
        scale, zero = max(-low, high) / fmt.high, 0
    else:
        low, high = min(low, 0), max(high, 0)
        scale = (high - low) / (fmt.high - fmt.low)
        zero = fmt.low - np.rint(low / scale)
    values = np.clip(np.rint(block / scale) + zero, fmt.low, fmt.high)
    return (((values - zero) * scale - block) ** 2).sum()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("format", ["int2", "int4", "int8"])
def test_mse_finds_the_least_error_of_its_grid(format, symmetric):
    fmt, w = FORMATS[format], weights()
    low, high = WEIGHT_RANGES["mse"](jnp.asarray(w), SCALE_SHAPE, format, symmetric)
    shrunk = []
    for index, block in blocks(SHAPE, SCALE_SHAPE):
        numbers = w[block].astype(np.float64)
        errors = {
            t: squared_error(numbers, t * numbers.min(), t * numbers.max(), fmt, symmetric)
            for t in np.arange(1, 101) / 100
        }
        chosen = high[index] / numbers.max()
        np.testing.assert_allclose(low[index], chosen * numbers.min(), rtol=1e-5)
        chosen = errors[np.round(float(chosen), 2)]
        np.testing.assert_allclose(chosen, min(errors.values()), rtol=1e-4)
        shrunk.append(chosen < errors[1.0])
    assert any(shrunk) or format == "int8"


@pytest.mark.parametrize("format", FORMATS)
def test_mse_is_never_worse_than_min_max(format):
    w = jnp.asarray(weights())

    def error(name):
        low, high = WEIGHT_RANGES[name](w, (1, 4), format, True)
        scale, zero_point = choose_scale(low, high, format, True)
        return ((fake_quantize(w, scale, zero_point, format) - w) ** 2).sum(axis=0)

    assert (error("mse") <= error("minmax") * (1 + 1e-6)).all()

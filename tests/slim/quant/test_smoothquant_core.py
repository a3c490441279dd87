import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.numerics import choose_scale, fake_quantize
from slim.quant.smoothquant_core import smooth, smoothing_factors
from tests.slim.quant.correlated import correlated


def reaches(w, x):
    return jnp.abs(x).max(axis=0), jnp.abs(w).max(axis=1)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85, 1.0])
def test_smoothing_changes_no_output(alpha):
    w, x = correlated(0)
    factors = smoothing_factors(*reaches(w, x), alpha)
    outputs = np.asarray(x / factors, np.float64) @ np.asarray(smooth(w, factors), np.float64)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_alpha_shares_the_difficulty():
    w, x = correlated(0)
    input_reach, weight_reach = reaches(w, x)
    for alpha in (0.0, 0.5, 1.0):
        factors = smoothing_factors(input_reach, weight_reach, alpha)
        expected = np.asarray(input_reach) ** alpha / np.asarray(weight_reach) ** (1 - alpha)
        np.testing.assert_allclose(factors, expected, rtol=1e-5)
    even = smoothing_factors(input_reach, weight_reach, 0.5)
    np.testing.assert_allclose(input_reach / even, weight_reach * even, rtol=1e-5)


def test_smoothing_helps_inputs_with_outliers():
    def fake(array, dims):
        reach = jnp.abs(array).max(axis=dims, keepdims=True)
        return fake_quantize(array, *choose_scale(-reach, reach, "int8", symmetric=True), "int8")

    for seed in range(5):
        w, x = correlated(seed)
        x = x.at[:, 5].multiply(50.0)
        w = w.at[5].divide(50.0)
        factors = smoothing_factors(*reaches(w, x))

        def error(x, w, exact):
            return ((fake(x, (0, 1)) @ fake(w, (0,)) - exact) ** 2).mean()

        assert error(x / factors, smooth(w, factors), x @ w) < 0.5 * error(x, w, x @ w)


def test_channels_that_are_zero_stay_as_they_are():
    factors = smoothing_factors(jnp.array([0.0, 4.0, 4.0]), jnp.array([9.0, 0.0, 1.0]))
    np.testing.assert_allclose(factors, [1.0, 1.0, 2.0], rtol=1e-6)


def test_pure_under_jit():
    w, x = correlated(0)
    jitted = jax.jit(lambda x, w: smoothing_factors(x, w, 0.7))
    given = reaches(w, x)
    np.testing.assert_allclose(jitted(*given), smoothing_factors(*given, 0.7), rtol=1e-6)
    half = smooth(w.astype(jnp.bfloat16), jitted(*given))
    assert (half.dtype, half.shape) == (jnp.bfloat16, w.shape)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"alpha is 1.5: must be from 0"):
        smoothing_factors(jnp.ones(3), jnp.ones(3), 1.5)
    with pytest.raises(ValueError, match=r"input_reach of shape \(3,\) .*shape \(4,\)"):
        smoothing_factors(jnp.ones(3), jnp.ones(4))

"""AWQ against its search written out in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.awq_core import awq_factors
from slim.quant.hessian import input_hessian, output_error
from slim.quant.numerics import WEIGHT_RANGES, choose_scale, dequantize, quantize, scale_shape
from slim.quant.smoothquant_core import smooth
from tests.slim.quant.correlated import correlated

GROUPS = scale_shape((24, 8), (0,), 12)


def salient(seed):
    """Two inputs are much larger than the others: those that AWQ looks after."""
    w, x = correlated(seed)
    return w, x.at[:, 4].multiply(30.0).at[:, 17].multiply(60.0)


def find(w, x, weight_range="minmax"):
    mean = jnp.abs(x).mean(axis=0)
    return awq_factors(w, input_hessian(x), mean, GROUPS, "int4", True, weight_range)


def error(w, x, factors, weight_range="minmax"):
    smoothed = smooth(w, factors)
    low, high = WEIGHT_RANGES[weight_range](smoothed, GROUPS, "int4", True)
    q = quantize(smoothed, *choose_scale(low, high, "int4", True), "int4")
    return output_error(dequantize(q) / factors[:, None] - w, input_hessian(x))


def paper(w, x):
    """The candidate with the least output error over the samples, in double precision."""
    w, x = np.asarray(w, np.float64), np.asarray(x, np.float64)
    best = None
    for power in np.arange(20) / 20:
        factors = np.abs(x).mean(axis=0) ** power
        factors /= np.sqrt(factors.max() * factors.min())
        scaled = (w * factors[:, None]).reshape(2, 12, 8)
        step = np.abs(scaled).max(axis=1, keepdims=True) / 7
        rounded = (np.clip(np.rint(scaled / step), -8, 7) * step).reshape(24, 8)
        loss = ((x @ (rounded / factors[:, None]) - x @ w) ** 2).sum()
        if best is None or loss < best[0]:
            best = loss, factors
    return best[1]


@pytest.mark.parametrize("seed", range(5))
def test_awq_is_the_papers_search(seed):
    w, x = salient(seed)
    np.testing.assert_allclose(find(w, x), paper(w, x), rtol=1e-4)


@pytest.mark.parametrize("weight_range", WEIGHT_RANGES)
def test_awq_changes_outputs_less_than_rounding(weight_range):
    for seed in range(5):
        w, x = salient(seed)
        found = error(w, x, find(w, x, weight_range), weight_range)
        assert found < 0.5 * error(w, x, jnp.ones(24), weight_range)


def test_inputs_never_seen_get_a_finite_factor():
    w, x = salient(0)
    factors = find(w, x.at[:, 2].set(0.0))
    assert jnp.isfinite(factors).all()
    assert (factors > 0).all()
    chex.assert_trees_all_close(find(w, jnp.zeros_like(x)), jnp.ones(24))


def test_pure_under_jit_and_compiled_once():
    jitted = jax.jit(find)
    for seed in (0, 1):
        w, x = salient(seed)
        np.testing.assert_allclose(jitted(w, x), find(w, x), rtol=1e-4)
    assert jitted._cache_size() == 1
    chex.assert_shape(jax.eval_shape(jitted, w, x), (24,))


def test_bad_arguments_are_refused():
    w, x = salient(0)
    with pytest.raises(ValueError, match=r"weight_range is 'kl'; there are minmax"):
        find(w, x, "kl")
    with pytest.raises(ValueError, match=r"input_mean of shape \(8,\)"):
        awq_factors(w, input_hessian(x), jnp.ones(8), GROUPS, "int4", True)
    with pytest.raises(ValueError, match=r"hessian of shape \(12, 12\)"):
        awq_factors(w, input_hessian(x[:, :12]), jnp.ones(24), GROUPS, "int4", True)

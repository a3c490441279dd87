"""SmoothQuant and AWQ on graphs, against their cores on the matrices that the sites are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.quant import Activations, Policy, Rule, Weights, assign, awq, calibrate, smoothquant
from slim.quant.awq_core import awq_factors
from slim.quant.hessian import input_hessian
from slim.quant.simulate import simulate
from slim.quant.smoothquant_core import smoothing_factors
from tests.slim.quant.correlated import correlated

W, X = correlated(0)
EIGHT_BITS = Policy((Rule("*", Weights(), Activations(symmetric=True)),), edges=None)
GROUPS = Policy((Rule("*", Weights("int4", 6, "mse"), None),), edges=None)


def fn(params, x):
    """A product, two scanned ones and one of heads with a tensor of two contracted dimensions."""
    x = jax.nn.relu(x @ params["first"])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w.T / 8), None), x, params["stack"])[0]
    return jnp.einsum("bhd,hdo->bo", x.reshape(-1, 4, 6), params["heads"])


PARAMS = {
    "first": correlated(1, outputs=24)[0],
    "stack": jnp.stack([correlated(seed, outputs=24)[0] for seed in (2, 3)]),
    "heads": correlated(4)[0].reshape(4, 6, 8),
}
BATCHES = [(X[:100],), (X[100:],)]


def inputs(x):
    """What each product of `fn` meets, as rows, with its weight as (in, out)."""
    found = [("first", ..., x, PARAMS["first"])]
    x = jax.nn.relu(x @ PARAMS["first"])
    for i, w in enumerate(PARAMS["stack"]):
        found.append(("stack", i, x, w.T))
        x = jnp.tanh(x @ w.T / 8)
    return [*found, ("heads", ..., x, PARAMS["heads"].reshape(24, 8))]


@pytest.mark.parametrize("alpha", [0.5, 0.8])
def test_smoothquant_is_the_core_at_each_site(alpha):
    graph = trace(fn, PARAMS, X)
    found = smoothquant(graph, assign(graph, EIGHT_BITS), PARAMS, BATCHES, alpha=alpha)
    assert {name: factors.shape for name, factors in found.items()} == {
        "first": (1, 24),
        "stack": (2, 1, 24),
        "heads": (1, 4, 6),
    }
    for name, i, x, w in inputs(X):
        expected = smoothing_factors(jnp.abs(x).max(0), jnp.abs(w).max(1), alpha)
        np.testing.assert_allclose(found[name][i].ravel(), expected, rtol=1e-4)


def test_awq_is_the_core_at_each_site():
    graph = trace(fn, PARAMS, X)
    sites = assign(graph, Policy((Rule("heads", Weights("int4"), None), *GROUPS.rules), None))
    found = awq(graph, sites, PARAMS, BATCHES)
    assert set(found) == {"first", "stack", "heads"}
    for name, i, x, w in inputs(X):
        spec = ((1, 8), "int4", True) if name == "heads" else ((4, 24), "int4", True, "mse")
        expected = awq_factors(w, input_hessian(x), jnp.abs(x).mean(0), *spec)
        np.testing.assert_allclose(found[name][i].ravel(), expected, rtol=1e-3)


def errors(params, x, policy, find):
    """The mean squared errors of x @ w rounded to nearest, and smoothed."""
    graph = trace(lambda p, x: x @ p["w"], params, x)
    sites = assign(graph, policy)
    exact, simulated = x @ params["w"], simulate(graph, sites)
    every = [
        calibrate(graph, sites, params, [(x,)]),
        calibrate(graph, sites, params, [(x,)], smoothing=find(graph, sites, params, [(x,)])),
    ]
    return [float(jnp.square(simulated(params, scales, x) - exact).mean()) for scales in every]


@pytest.mark.parametrize("seed", range(3))
def test_smoothquant_helps_inputs_with_outliers(seed):
    w, x = correlated(seed)
    x, w = x.at[:, 5].multiply(50.0), w.at[5].divide(50.0)
    nearest, smoothed = errors({"w": w}, x, EIGHT_BITS, smoothquant)
    assert smoothed < 0.2 * nearest


@pytest.mark.parametrize("seed", range(3))
def test_awq_changes_outputs_no_more_than_rounding(seed):
    w, x = correlated(seed)
    nearest, smoothed = errors({"w": w}, x, GROUPS, awq)
    assert smoothed <= nearest * (1 + 1e-5)
    x = x.at[:, 4].multiply(30.0).at[:, 17].multiply(60.0)
    nearest, smoothed = errors({"w": w}, x, GROUPS, awq)
    assert smoothed < 0.6 * nearest


def test_calibration_is_of_smoothed_operands():
    graph = trace(fn, PARAMS, X)
    sites = assign(graph, EIGHT_BITS)
    found = smoothquant(graph, sites, PARAMS, BATCHES)
    scales = calibrate(graph, sites, PARAMS, BATCHES, smoothing=found)
    for name, i, x, w in inputs(X):
        factors = found[name][i].ravel()
        data, weights = (scales[name][role].scale[i] for role in ("data", "weights"))
        np.testing.assert_allclose(data.ravel(), [jnp.abs(x / factors).max() / 127], rtol=1e-4)
        reach = jnp.abs(factors[:, None] * w).max(0)
        np.testing.assert_allclose(weights.ravel(), reach / 127, rtol=1e-4)


def test_factors_of_one_are_no_smoothing():
    graph = trace(fn, PARAMS, X)
    sites = assign(graph, EIGHT_BITS)
    ones = {"first": jnp.ones((1, 24)), "stack": jnp.ones((2, 1, 24))}
    scales = calibrate(graph, sites, PARAMS, BATCHES, smoothing=ones)
    plain = calibrate(graph, sites, PARAMS, BATCHES)
    run = jax.jit(simulate(graph, sites))
    chex.assert_trees_all_equal(run(PARAMS, scales, X), run(PARAMS, plain, X))
    for name, factors in ones.items():
        chex.assert_trees_all_equal(scales[name].pop("smoothing"), factors)
    chex.assert_trees_all_equal(scales, plain)


def test_each_method_takes_its_own_sites():
    rules = (Rule("first", Weights("int4"), None), Rule("heads", None, None), *EIGHT_BITS.rules)
    graph = trace(fn, PARAMS, X)
    sites = assign(graph, Policy(rules, edges=None))
    assert set(smoothquant(graph, sites, PARAMS, BATCHES)) == {"stack"}
    assert set(awq(graph, sites, PARAMS, BATCHES)) == {"first"}


METHODS = {"smoothquant": (smoothquant, EIGHT_BITS), "awq": (awq, GROUPS)}


@pytest.mark.parametrize("method", METHODS)
def test_pure_under_jit(method):
    find, policy = METHODS[method]
    graph = trace(lambda p, x: x @ p["w"], {"w": W}, X)
    sites = assign(graph, policy)
    jitted = jax.jit(lambda params, batches: find(graph, sites, params, batches))
    for scale in (1.0, 2.0):
        params, batches = {"w": scale * W}, [(scale * x,) for (x,) in BATCHES]
        expected = find(graph, sites, params, batches)
        chex.assert_trees_all_close(jitted(params, batches), expected, rtol=1e-5)
    assert jitted._cache_size() == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("batches", "message"),
    [([], "no calibration batches: {} needs"), ([(X.at[0, 0].set(jnp.nan),)], "'w' was given NaN")],
)
def test_batches_that_do_not_do(method, batches, message):
    find, policy = METHODS[method]
    graph = trace(lambda p, x: x @ p["w"], {"w": W}, X)
    name = {"smoothquant": "SmoothQuant", "awq": "AWQ"}[method]
    with pytest.raises(ValueError, match=message.format(name)):
        find(graph, assign(graph, policy), {"w": W}, batches)

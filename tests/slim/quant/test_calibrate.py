import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.quant import (
    TRAINED,
    Activations,
    Policy,
    Rule,
    Weights,
    assign,
    calibrate,
    simulate,
    weight_scales,
)
from slim.quant.numerics import WEIGHT_RANGES, dequantize, fake_quantize, quantize
from slim.quant.observers import OBSERVERS

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (8, 4))
PARAMS = {"a": jax.random.normal(KEY, (4, 6)), "stack": jax.random.normal(KEY, (3, 6, 6)) / 2}


def fn(params, x):
    x = jax.nn.relu(x @ params["a"])
    return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, params["stack"])[0]


def calibrated(policy, params=PARAMS, batches=((X,), (2 * X,))):
    graph = trace(fn, params, X)
    sites = assign(graph, policy)
    return graph, sites, calibrate(graph, sites, params, batches)


SYMMETRIC = Policy((Rule("*", Weights(), Activations(symmetric=True)),), edges=None)


def test_scales_of_parameters_and_data():
    _, _, scales = calibrated(SYMMETRIC)
    assert set(scales) == {"a", "stack"}
    assert scales["a"]["weights"].scale.shape == (1, 6)
    assert scales["stack"]["weights"].scale.shape == (3, 1, 6)
    assert scales["stack"]["data"].scale.shape == (3, 1, 1)
    np.testing.assert_allclose(
        scales["a"]["weights"].scale, jnp.abs(PARAMS["a"]).max(0, keepdims=True) / 127, rtol=1e-6
    )
    np.testing.assert_allclose(scales["a"]["data"].scale, [[2 * jnp.abs(X).max() / 127]], rtol=1e-6)
    x, seen = jax.nn.relu(2 * X @ PARAMS["a"]), []
    for w in PARAMS["stack"]:
        seen.append(float(x.max() / 127))
        x = jax.nn.relu(x @ w)
    np.testing.assert_allclose(scales["stack"]["data"].scale.ravel(), seen, rtol=1e-5)


def test_simulation_is_the_program_with_rounded_operands():
    graph, sites, scales = calibrated(SYMMETRIC)

    def rounded(x, name, role, i=...):
        scale = scales[name][role].scale
        return fake_quantize(x, scale if i is ... else scale[i], None, "int8")

    x = rounded(X, "a", "data") @ rounded(PARAMS["a"], "a", "weights")
    for i, w in enumerate(PARAMS["stack"]):
        x = rounded(jax.nn.relu(x), "stack", "data", i) @ rounded(w, "stack", "weights", i)
    found = simulate(graph, sites)(PARAMS, scales, X)
    np.testing.assert_allclose(found, jax.nn.relu(x), rtol=1e-5, atol=1e-6)


def test_the_policy_holds_for_other_functions_of_the_parameters():
    _, sites, scales = calibrated(SYMMETRIC)
    both = trace(lambda p, x: (fn(p, x), (x @ p["a"]).sum()), PARAMS, X)
    outputs, _ = simulate(both, sites)(PARAMS, scales, X)
    chex.assert_trees_all_close(
        outputs, simulate(trace(fn, PARAMS, X), sites)(PARAMS, scales, X), rtol=1e-6
    )


def test_weights_alone_need_no_batches():
    policy = Policy((Rule("*", Weights("int4"), None),), edges=None)
    graph, sites, scales = calibrated(policy, batches=())
    chex.assert_trees_all_equal(scales, weight_scales(graph, sites, PARAMS))
    assert all(set(roles) == {"weights"} for roles in scales.values())


@pytest.mark.parametrize(
    ("params", "batches", "message"),
    [
        (PARAMS, (), "no calibration batches: the activations of 2 sites"),
        (PARAMS, ((X.at[3, 2].set(jnp.inf),),), "'a' was given infinite values"),
        (PARAMS, ((X.at[3, 2].set(jnp.nan),),), "'a' was given NaN: the float model"),
        (PARAMS, ((0 * X,),), r"site 'a' \(data\) saw nothing but zeros"),
    ],
)
def test_what_cannot_be_calibrated(params, batches, message):
    with pytest.raises(ValueError, match=message):
        calibrated(SYMMETRIC, params, batches)


@pytest.mark.parametrize("method", WEIGHT_RANGES)
@pytest.mark.parametrize(("bad", "message"), [(jnp.nan, "NaN"), (-jnp.inf, "infinite values")])
@pytest.mark.parametrize(("site", "place"), [("a", (0, 0)), ("stack", (1, 2, 3))])
def test_a_parameter_that_is_not_finite_is_refused_by_its_name(method, bad, message, site, place):
    policy = Policy((Rule("*", Weights(range=method), None),), edges=None)
    params = {**PARAMS, site: PARAMS[site].at[place].set(bad)}
    with pytest.raises(ValueError, match=f"site '{site}' was given {message}.*its parameter must"):
        calibrated(policy, params, ())


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize(("value", "high"), [(3.0, 255), (-0.02, 0)])
def test_activations_that_are_all_the_same_are_quantized(observer, value, high):
    """Their range is from zero to them, and they lie at its end."""
    rule = Rule("*", Weights(), Activations("uint8", observer))
    params, x = {"w": PARAMS["a"]}, jnp.full_like(X, value)
    graph = trace(lambda p, x: x @ p["w"], params, x)
    sites = assign(graph, Policy((rule,), edges=None))
    (scale, zero_point) = calibrate(graph, sites, params, [(x,)])["w"]["data"]
    np.testing.assert_allclose(scale, [[abs(value) / 255]], rtol=1e-6)
    q = quantize(x, scale, zero_point, "uint8")
    assert (q.values == high).all()
    np.testing.assert_allclose(dequantize(q), x, rtol=1e-6)


@pytest.mark.parametrize("method", TRAINED)
def test_training_through_the_simulation(method):
    graph, sites, scales = calibrated(SYMMETRIC)
    scales = jax.tree.map(lambda leaf: leaf / 2, scales)  # so that something is clipped
    rounding = TRAINED[method]
    fn = simulate(graph, sites, weights=rounding, data=rounding)

    def loss(params, scales):
        return jnp.square(fn(params, scales, X)).mean()

    grads, to_scales = jax.jit(jax.grad(loss, (0, 1)))(PARAMS, scales)
    chex.assert_tree_all_finite((grads, to_scales))
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    moved = any(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(to_scales))
    assert moved == (method != "fixed")

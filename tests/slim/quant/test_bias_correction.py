import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.quant import Activations, Policy, Rule, Weights, assign, bias_correction, calibrate
from slim.quant.numerics import fake_quantize
from slim.quant.simulate import simulate
from slim.quant.state import correction_shape, smoothing_shape
from tests.slim.quant.programs import PROGRAMS, normal

POLICY = Policy((Rule("*", Weights("int4"), Activations("int4")),), edges=None)
# One product whose result is the program's, so that the mean of it can be taken from outside.
PRODUCTS = {name: each for name, each in PROGRAMS.items() if name not in ("stack", "attention")}
# The dimensions of the program's result that are not the weight's outputs.
OTHERS = {"heads": (0,), "batched": (1,)}


def prepared(program, policy=POLICY):
    fn, shapes, x_shape = PROGRAMS[program]
    params = {name: normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    batches = [(normal(seed, *x_shape) + 0.5,) for seed in (7, 8)]
    graph = trace(fn, params, *batches[0])
    return graph, assign(graph, policy), params, batches


@pytest.mark.parametrize("program", PRODUCTS)
def test_the_mean_of_each_output_is_the_float_models(program):
    graph, sites, params, batches = prepared(program)
    smoothing = {"w": jnp.exp(normal(3, *smoothing_shape(sites["w"])))}
    scales = calibrate(graph, sites, params, batches, smoothing=smoothing)
    corrected = bias_correction(graph, sites, params, scales, batches)
    assert corrected["w"]["correction"].shape == correction_shape(sites["w"])
    assert "correction" not in scales["w"]
    run = jax.jit(simulate(graph, sites))

    def mean(fn):
        results = jnp.stack([fn(*batch) for batch in batches])
        over = OTHERS.get(program, range(results.ndim - 2))
        return results.mean((0, *(d + 1 for d in over)))

    exact = mean(lambda x: graph.fn(params, x))
    before = mean(lambda x: run(params, scales, x))
    after = mean(lambda x: run(params, corrected, x))
    assert jnp.abs(before - exact).max() > 1e-2
    np.testing.assert_allclose(after, exact, rtol=1e-5, atol=1e-5)


def test_each_round_of_a_scan_has_its_own():
    graph, sites, params, batches = prepared("stack")
    scales = calibrate(graph, sites, params, batches)
    corrected = bias_correction(graph, sites, params, scales, batches)["w"]["correction"]
    (x, w) = jnp.concatenate([x for (x,) in batches]), params["w"]

    def rounded(operand, role, i):
        scale, zero_point = scales["w"][role]
        zero = None if zero_point is None else zero_point[i]
        return fake_quantize(operand, scale[i], zero, "int4")

    for i in range(3):
        change = x @ w[i] - rounded(x, "data", i) @ rounded(w[i], "weights", i)
        np.testing.assert_allclose(corrected[i, 0], change.mean(0), rtol=1e-4, atol=1e-5)
        x = jnp.tanh(x @ w[i])


def test_every_entry_weighs_the_same():
    graph, sites, params, batches = prepared("dense")
    scales = calibrate(graph, sites, params, batches)
    x = jnp.concatenate([x for (x,) in batches])
    whole = bias_correction(graph, sites, params, scales, [(x,)])
    parts = bias_correction(graph, sites, params, whole, [(x[:2],), (x[2:],)])
    np.testing.assert_allclose(
        parts["w"]["correction"], whole["w"]["correction"], rtol=1e-4, atol=1e-6
    )


def test_products_of_activations_and_float_sites_have_none():
    policy = Policy(POLICY.rules, edges=None, products=Activations())
    graph, sites, params, batches = prepared("attention", policy)
    scales = calibrate(graph, sites, params, batches)
    corrected = bias_correction(graph, sites, params, scales, batches)
    assert corrected.keys() == scales.keys()
    assert [name for name, state in corrected.items() if "correction" in state] == ["w"]


def test_pure_under_jit():
    graph, sites, params, batches = prepared("conv")
    scales = calibrate(graph, sites, params, batches)
    jitted = jax.jit(lambda *args: bias_correction(graph, sites, *args))
    for _ in range(2):
        found = jitted(params, scales, batches)
    expected = bias_correction(graph, sites, params, scales, batches)
    np.testing.assert_allclose(
        found["w"]["correction"], expected["w"]["correction"], rtol=1e-4, atol=1e-6
    )
    assert jitted._cache_size() == 1


def test_no_batches():
    graph, sites, params, batches = prepared("dense")
    scales = calibrate(graph, sites, params, batches)
    with pytest.raises(ValueError, match="no calibration batches: bias correction needs at least"):
        bias_correction(graph, sites, params, scales, [])

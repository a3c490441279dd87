"""Smoothing and correction: the same function, and the same numbers in integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.quant import Activations, Policy, Rule, Weights, assign, calibrate, convert, execute
from slim.quant.simulate import simulate
from slim.quant.state import correction_shape, smoothing_shape
from tests.slim.quant.programs import PROGRAMS, normal


def prepared(program, policy):
    fn, shapes, x_shape = PROGRAMS[program]
    params = {name: normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    x = normal(9, *x_shape) + 0.5
    graph = trace(fn, params, x)
    sites = assign(graph, policy)
    assigned = sites["w"]
    factors = jnp.exp(normal(3, *assigned.site.loops, *smoothing_shape(assigned)))
    correction = normal(4, *assigned.site.loops, *correction_shape(assigned))
    return graph, sites, params, x, factors, correction


EIGHT_BITS = Policy((Rule("*", Weights(), Activations()),), edges=None)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_rounding_smoothing_changes_nothing_and_a_correction_is_added(program):
    graph, sites, params, x, factors, correction = prepared(program, EIGHT_BITS)

    def as_it_is(operand, scale, format):
        return operand

    fn = jax.jit(simulate(graph, sites, weights=as_it_is, data=as_it_is))
    state = {"weights": None, "data": None, "smoothing": factors}
    exact = graph.fn(params, x)
    np.testing.assert_allclose(fn(params, {"w": state}, x), exact, rtol=1e-4, atol=1e-4)
    if program not in ("stack", "attention"):
        found = fn(params, {"w": {**state, "correction": correction}}, x)
        assert correction.size > 1
        np.testing.assert_allclose(
            found, exact + correction.reshape(_as_result(sites, exact)), rtol=1e-4, atol=1e-4
        )


def _as_result(sites, exact):
    """The correction's shape where the program gives the result in another layout (`left`)."""
    shape = correction_shape(sites["w"])
    if sites["w"].site.result == exact.shape:
        return shape
    return (1,) * (exact.ndim - 1) + (max(shape),)


POLICIES = {
    "w8a8": EIGHT_BITS,
    "weights only": Policy((Rule("*", Weights("int4"), None),), edges=None),
    "activations only": Policy((Rule("*", None, Activations("uint8")),), edges=None),
}


@pytest.mark.parametrize(
    ("program", "policy"),
    [
        *((program, "w8a8") for program in PROGRAMS),
        *((p, name) for p in ("stack", "grouped") for name in POLICIES if name != "w8a8"),
    ],
)
def test_integers_equal_simulation(program, policy):
    graph, sites, params, x, factors, correction = prepared(program, POLICIES[policy])
    scales = calibrate(graph, sites, params, [(x,)], smoothing={"w": factors})
    scales["w"]["correction"] = correction
    simulated = jax.jit(simulate(graph, sites))(params, scales, x)
    small = convert(graph, sites, params, scales)
    assert (small.params["w"] is None) == (policy != "activations only")
    for integers in (True, False):
        found = jax.jit(execute(graph, sites, integers=integers))(small, x)
        np.testing.assert_allclose(found, simulated, rtol=5e-5, atol=5e-5)


def test_half_precision_stays_what_it_is():
    w, x = normal(0, 16, 8).astype(jnp.bfloat16), normal(1, 4, 16).astype(jnp.bfloat16)
    graph = trace(lambda p, x: x @ p["w"], {"w": w}, x)
    sites = assign(graph, EIGHT_BITS)
    smoothing = {"w": jnp.exp(normal(2, 1, 16))}
    scales = calibrate(graph, sites, {"w": w}, [(x,)], smoothing=smoothing)
    scales["w"]["correction"] = jnp.ones((1, 8))
    found = simulate(graph, sites)({"w": w}, scales, x)
    assert found.dtype == jnp.bfloat16
    exact = np.asarray((x @ w).astype(jnp.float32))
    np.testing.assert_allclose(found.astype(jnp.float32), exact + 1, rtol=0.05, atol=0.2)


@pytest.mark.parametrize(
    ("smoothing", "message"),
    [
        ({"v": jnp.ones((1, 16))}, "smoothing of 'v', which is no quantized site .* nearest: w"),
        ({"w": jnp.ones((16,))}, r"'w' is float32 of shape \(16,\): must be float32 of shape \(1,"),
        ({"w": jnp.ones((1, 16), jnp.int32)}, "'w' is int32"),
        ({"w": jnp.ones((1, 16)).at[0, 3].set(0)}, "'w' holds 0.0: factors must be finite and"),
        ({"w": jnp.full((1, 16), jnp.nan)}, "'w' holds nan"),
    ],
)
def test_smoothing_that_does_not_fit(smoothing, message):
    graph, sites, params, x, _, _ = prepared("dense", EIGHT_BITS)
    with pytest.raises(ValueError, match=message):
        calibrate(graph, sites, params, [(x,)], smoothing=smoothing)

"""16-bit sites, and the cheapest precision of every site within a tolerance."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.graph.inner import inner_jaxprs
from slim.quant import (
    COSTS,
    TRAINED,
    Activations,
    Effects,
    Option,
    Policy,
    Rule,
    Weights,
    assign,
    auto,
    calibrate,
    convert,
    execute,
    explain,
    measure_sites,
    restore,
    separate,
    simulate,
    store,
)
from slim.quant.precision import FLOAT
from tests.slim.quant.programs import PROGRAMS, normal
from tests.slim.quant.searched import searched

HALVES = ("bfloat16", "float16")
every_half = pytest.mark.parametrize("format", HALVES)


def cast(program, format, weights=None):
    """A program with every operand cast, without calibration data."""
    fn, shapes, x_shape = PROGRAMS[program]
    params = {name: normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    x = normal(9, *x_shape)
    graph = trace(fn, params, x)
    data = Activations(format)
    policy = Policy((Rule("*", weights or Weights(format), data),), edges=None, products=data)
    sites = assign(graph, policy)
    return graph, sites, params, calibrate(graph, sites, params), x


def products_of(fn, *args):
    """The operands' and the result's dtypes of each contraction."""
    found = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
                found.append([v.aval.dtype.name for v in (*eqn.invars, *eqn.outvars)])
            for inner in inner_jaxprs(eqn):
                walk(inner.jaxpr)

    walk(jax.make_jaxpr(fn)(*args).jaxpr)
    return found


@pytest.mark.parametrize(
    ("program", "format"),
    [
        ("dense", "bfloat16"),
        ("stack", "float16"),
        ("attention", "bfloat16"),
        ("ragged", "bfloat16"),
        ("depthwise", "float16"),
        ("transposed", "bfloat16"),
    ],
)
def test_a_site_is_that_of_its_operands_cast(program, format):
    graph, sites, params, scales, x = cast(program, format)
    simulated = jax.jit(simulate(graph, sites))(params, scales, x)
    small = convert(graph, sites, params, scales)
    found = jax.jit(execute(graph, sites))(small, x)
    np.testing.assert_allclose(found, simulated, rtol=2e-5, atol=2e-5)
    exact = graph.fn(params, x)
    assert 1e-5 < jnp.abs(found - exact).max() / jnp.abs(exact).max() < 0.05
    if program in ("dense", "depthwise", "transposed"):
        halved = {**params, "w": params["w"].astype(format).astype(jnp.float32)}
        expected = graph.fn(halved, x.astype(format).astype(jnp.float32))
        np.testing.assert_allclose(simulated, expected, rtol=1e-6, atol=1e-6)


@every_half
@pytest.mark.parametrize("weights", [None, Weights(), Weights("int4", symmetric=False)])
@pytest.mark.parametrize("program", ["dense", "conv"])
def test_the_product_is_of_16_bits_summed_in_32(format, weights, program):
    graph, sites, params, scales, x = cast(program, format, weights)
    small = convert(graph, sites, params, scales)
    assert products_of(execute(graph, sites), small, x) == [[format, format, "float32"]]


@every_half
def test_weights_take_two_bytes(format):
    graph, sites, params, scales, _ = cast("conv", format)
    small = convert(graph, sites, params, scales)
    stored = store(small)["quantized"]["w"]["weights"]
    assert stored["values"].nbytes == params["w"].nbytes // 2
    assert COSTS["bytes"](graph, sites) == {"w": params["w"].nbytes // 2 + 4}
    chex.assert_trees_all_equal(restore(sites, store(small)).sites, small.sites)
    assert COSTS["bit_operations"](graph, sites)["w"] == 16 * 16 * 6 * 6 * 2 * params["w"].size


@every_half
@pytest.mark.parametrize("method", TRAINED)
def test_parameters_are_trained_and_scales_of_one_are_not(format, method):
    graph, sites, params, scales, x = cast("dense", format)
    fn = simulate(graph, sites, weights=TRAINED[method], data=TRAINED[method])

    def loss(params, scales, x):
        return jnp.square(fn(params, scales, x)).mean()

    grads, to_scales, to_x = jax.jit(jax.grad(loss, (0, 1, 2)))(params, scales, x)
    plain = jax.grad(lambda p, x: jnp.square(graph.fn(p, x)).mean(), (0, 1))(params, x)
    chex.assert_trees_all_close((grads, to_x), plain, rtol=0.05, atol=0.02)
    assert not any(leaf.any() for leaf in jax.tree.leaves(to_scales))
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(separate(scales)[0]))


def test_casts_are_explained_by_their_name():
    fn, shapes, x_shape = PROGRAMS["dense"]
    like = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    graph = trace(fn, like, jax.ShapeDtypeStruct(x_shape, jnp.float32))
    rule = Rule("*", Weights("bfloat16"), Activations("float16"))
    row = explain(graph, Policy((rule,))).splitlines()[1].split()
    assert row == ["w", "bfloat16", "float16", "rule", "'*'"]


def test_a_parameter_that_is_not_finite_is_not_cast():
    fn, shapes, x_shape = PROGRAMS["dense"]
    params = {name: jnp.full(shape, jnp.nan) for name, shape in shapes.items()}
    graph = trace(fn, params, jnp.ones(x_shape))
    sites = assign(graph, Policy((Rule("*", Weights("float16"), None),), edges=None))
    with pytest.raises(ValueError, match="site 'w' was given NaN: its parameter must be finite"):
        calibrate(graph, sites, params)


def with_halves(case):
    """The options of a case in integers, and cast."""
    graph, params, x, options = searched(case)
    policy = Policy((Rule("*", Weights("bfloat16"), Activations("bfloat16")),), edges=None)
    sites = assign(graph, policy)
    cast = Option(sites, calibrate(graph, sites, params))
    return graph, params, x, {"bfloat16": cast, **options}


def byte_costs(graph, candidates):
    floats = assign(graph, Policy((), edges=None))
    ways = {FLOAT: floats, **{name: option.sites for name, option in candidates.items()}}
    costs = {}
    for name, sites in ways.items():
        for site, cost in COSTS["bytes"](graph, sites).items():
            costs.setdefault(site, {})[name] = cost
    return costs


@pytest.mark.parametrize("case", ["image", "scan"])
def test_every_site_is_as_cheap_as_the_tolerance_lets_it_be(case):
    graph, params, x, candidates = with_halves(case)
    effects, costs = measure_sites(graph, params, candidates, [(x,)]), byte_costs(graph, candidates)
    ways = [FLOAT, *candidates]
    losses = {site: {FLOAT: 0.0, **each} for site, each in effects.kl.items()}
    seen = []
    for tolerance in (0.0, 1e-6, 1e-4, 1e-2, 10.0):
        option, best = auto(candidates, effects, costs, tolerance)
        assert best.loss <= tolerance
        assert best.cost == min(
            sum(costs[site][way] for site, way in zip(losses, choice, strict=True))
            for choice in itertools.product(ways, repeat=len(losses))
            if math.fsum(losses[s][w] for s, w in zip(losses, choice, strict=True)) <= tolerance
        )
        seen.append(set(best.formats.values()))
        floats = {site for site, way in best.formats.items() if way == FLOAT}
        assert set(option.scales) == set(losses) - floats
        assert {site for site, each in option.sites.items() if not each.roles} == floats
    assert seen[0] == {FLOAT}
    assert seen[-1] == {"int4"}
    assert any("bfloat16" in each for each in seen)


def test_a_model_of_several_precisions_is_simulated_executed_and_stored():
    graph, params, x, candidates = with_halves("image")
    effects, costs = measure_sites(graph, params, candidates, [(x,)]), byte_costs(graph, candidates)
    kl = {**effects.kl, "head": dict.fromkeys(candidates, 1.0)}
    kl["hidden"] = {**kl["hidden"], "int4": 1.0, "int8": 1.0}
    (sites, scales), best = auto(candidates, Effects(kl), costs, tolerance=0.5)
    assert best.formats == {"conv": "int4", "hidden": "bfloat16", "head": FLOAT}
    assert sites["head"].why == "auto: float"
    simulated = jax.jit(simulate(graph, sites))(params, scales, x)
    small = convert(graph, sites, params, scales)
    found = jax.jit(execute(graph, sites))(restore(sites, store(small)), x)
    np.testing.assert_allclose(found, simulated, rtol=1e-4, atol=1e-4)


def test_what_the_device_computes_slower_is_not_chosen():
    graph, params, x, candidates = with_halves("image")
    effects = measure_sites(graph, params, candidates, [(x,)])
    seconds = {
        site: {FLOAT: 2e-5, "bfloat16": 3e-5, "int8": 1e-5, "int4": 2e-5} for site in effects.kl
    }
    option, best = auto(candidates, effects, seconds, tolerance=10.0)
    assert set(best.formats.values()) == {"int8"}
    assert auto(candidates, effects, seconds, tolerance=0.0)[1].cost == 2e-5 * len(effects.kl)
    assert option.sites["conv"].why == "rule '*'"


@pytest.mark.parametrize(
    ("tolerance", "costs", "by", "message"),
    [
        (-1.0, {FLOAT: 1, "int8": 1}, "kl", "tolerance is -1, below 0"),
        (math.nan, {FLOAT: 1, "int8": 1}, "kl", "tolerance is nan"),
        (1.0, {"int8": 1}, "kl", "no 'float' of site 'a'"),
        (1.0, {FLOAT: 1}, "kl", "no 'int8' of site 'a'"),
        (1.0, {FLOAT: 1, "int8": 1}, "loss", "by is 'loss', which was not measured"),
    ],
)
def test_bad_input(tolerance, costs, by, message):
    with pytest.raises(ValueError, match=message):
        auto({}, Effects({"a": {"int8": 0.5}}), {"a": costs}, tolerance, by=by)

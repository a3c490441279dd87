"""What one site's quantization does to the outputs, measured with one program."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.quant import (
    COSTS,
    Effects,
    Option,
    Policy,
    Rule,
    Weights,
    allocate,
    assign,
    choose,
    convert,
    measure_sites,
    mix,
    sensitivity,
    simulate,
    weight_scales,
)
from tests.slim.quant.searched import CASES, CLASSES, normal, searched, stored_bytes


def scales_of(options):
    return {name: option.scales for name, option in options.items()}


def names_of(options):
    return list(options["int8"].sites)


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1).mean()


def divergence(exact, outputs):
    """KL in float64."""
    p, q = (np.exp(np.asarray(each, np.float64)) for each in (exact, outputs))
    p, q = (each / each.sum(-1, keepdims=True) for each in (p, q))
    return (p * np.log(p / q)).sum(-1).mean()


def batches_of(x, count=2):
    labels = np.arange(len(x)) % CLASSES
    return [(x + 0.1 * i, labels) for i in range(count)]


@pytest.mark.parametrize("case", CASES)
def test_one_program_is_float_and_every_simulation(case):
    graph, params, x, options = searched(case)
    chex.clear_trace_counter()
    chosen = jax.jit(chex.assert_max_traces(choose(graph, options), 1))
    scales = scales_of(options)

    def everywhere(k):
        return {name: np.int32(k) for name in names_of(options)}

    exact = chosen(params, scales, everywhere(0), x)
    np.testing.assert_array_equal(exact, jax.jit(graph.fn)(params, x))
    for k, option in enumerate(options.values(), start=1):
        found = chosen(params, scales, everywhere(k), x)
        simulated = jax.jit(simulate(graph, option.sites))(params, option.scales, x)
        np.testing.assert_array_equal(found, simulated)
        assert jnp.abs(found - exact).max() > 1e-3


def test_sites_that_are_not_chosen_or_not_quantized_are_float():
    graph, params, x, options = searched("image")
    some = {name: each for name, each in options["int4"].scales.items() if name != "head"}
    rules = (Rule("head", None, None), Rule("*", Weights("int4")))
    sites = assign(graph, Policy(rules, edges=None))
    options = {"int4": Option(sites, some), "int8": options["int8"]}
    fn, scales = choose(graph, options), scales_of(options)
    exact = graph.fn(params, x)
    chex.assert_trees_all_equal(fn(params, scales, {}, x), exact)
    chex.assert_trees_all_equal(fn(params, scales, {"head": 1}, x), exact)
    assert jnp.abs(fn(params, scales, {"head": 2}, x) - exact).max() > 1e-3
    effects = measure_sites(graph, params, options, [(x,)])
    assert {site: list(each) for site, each in effects.kl.items()} == {
        "conv": ["int4", "int8"],
        "hidden": ["int4", "int8"],
        "head": ["int8"],
    }


@pytest.mark.parametrize("case", CASES)
def test_effects_are_those_of_each_site_alone(case):
    graph, params, x, options = searched(case)
    batches = batches_of(x)
    effects = measure_sites(graph, params, options, batches, cross_entropy)
    assert list(effects.kl) == list(effects.loss) == names_of(options)
    assert all(each["int4"] > 10 * each["int8"] > 0 for each in effects.kl.values())
    sites, scales = options["int4"]
    fn = jax.jit(simulate(graph, sites))
    for name in names_of(options):
        kl, change = [], []
        for x, labels in batches:
            before, after = graph.fn(params, x), fn(params, {name: scales[name]}, x)
            kl.append(divergence(before, after))
            change.append(cross_entropy(after, labels) - cross_entropy(before, labels))
        np.testing.assert_allclose(effects.kl[name]["int4"], np.mean(kl), rtol=1e-3)
        np.testing.assert_allclose(
            effects.loss[name]["int4"], np.mean(change), rtol=1e-3, atol=1e-6
        )


def test_nothing_is_compiled_again_from_site_to_site(monkeypatch):
    graph, params, x, options = searched("scan")

    chex.clear_trace_counter()

    def counted(*args):
        return chex.assert_max_traces(choose(*args), 1)

    monkeypatch.setattr(sensitivity, "choose", counted)
    loss = chex.assert_max_traces(cross_entropy, 1)
    measure_sites(graph, params, options, batches_of(x, 3), loss)
    small = [(x[:2], np.zeros(2, np.int32))]
    with pytest.raises(AssertionError, match="traced"):
        measure_sites(graph, params, options, batches_of(x) + small, cross_entropy)


def test_every_row_counts_alike():
    graph, params, x, options = searched("image")
    labels = np.arange(len(x)) % CLASSES
    whole = measure_sites(graph, params, options, [(x, labels)], cross_entropy)
    parts = [(x[:2], labels[:2]), (x[2:], labels[2:])]
    split = measure_sites(graph, params, options, parts, cross_entropy)
    chex.assert_trees_all_close(dict(split.kl), dict(whole.kl), rtol=1e-3)
    chex.assert_trees_all_close(dict(split.loss), dict(whole.loss), rtol=1e-3, atol=1e-6)


def test_far_apart_outputs_have_a_finite_divergence():
    exact, outputs = jnp.array([[0.0, 200.0, 0.0]]), jnp.array([[300.0, 0.0, 1.0]])
    np.testing.assert_allclose(sensitivity._divergence(exact, outputs), [300.0], rtol=1e-6)


def test_tables_for_the_search():
    effects = Effects({"a": {"int4": 0.5, "int8": 0.25}}, {"a": {"int4": -0.125, "int8": 0.5}})
    costs = {"a": {"int4": 1, "int8": 2, "int2": 0}, "b": {"int4": 7}}
    assert effects.tables(costs) == {"a": {"int4": (0.5, 1), "int8": (0.25, 2)}}
    # What lowers the loss is noise, here and there only.
    assert effects.tables(costs, by="loss") == {"a": {"int4": (0.0, 1), "int8": (0.5, 2)}}
    assert Effects.from_json(effects.to_json()) == effects
    assert Effects.from_json(Effects({}).to_json()) == Effects({})


@pytest.mark.parametrize(("case", "symmetric"), [("image", False), ("scan", True)])
def test_a_mixed_model_meets_its_budget_in_packed_bytes(case, symmetric):
    graph, params, x, options = searched(case, None, symmetric=symmetric)
    costs = {
        name: {option: COSTS["bytes"](graph, sites)[name] for option, (sites, _) in options.items()}
        for name in names_of(options)
    }
    cheapest, widest = (sum(each[name] for each in costs.values()) for name in options)
    budget = (cheapest + widest) / 2
    effects = measure_sites(graph, params, options, [(x,)])
    best = allocate(effects.tables(costs), budget)
    assert set(best.formats.values()) == {"int4", "int8"}
    sites, scales = mix(options, best.formats)
    small = convert(graph, sites, params, scales)
    assert sum(stored_bytes(small).values()) == best.cost <= budget
    # The choice that was searched for is the model that was made.
    choice = {
        name: np.int32(1 + list(options).index(option)) for name, option in best.formats.items()
    }
    chosen = jax.jit(choose(graph, options))(params, scales_of(options), choice, x)
    np.testing.assert_array_equal(chosen, jax.jit(simulate(graph, sites))(params, scales, x))


def test_what_else_a_site_has_among_its_scales_is_passed_on(monkeypatch):
    graph, params, x, options = searched("image")
    seen = []

    def site(contract, assigned, operands, scales):
        seen.append((contract.site.name, assigned.weights.format, set(scales)))
        return contract(*operands)

    monkeypatch.setattr(sensitivity, "simulate_site", site)
    sites, scales = options["int4"]
    more = {name: {**each, "more": jnp.ones(())} for name, each in scales.items()}
    fn = choose(graph, {"int4": Option(sites, more)})
    fn(params, {"int4": more}, {"head": 1}, x)
    assert seen == [("head", "int4", {"weights", "data", "more"})]


def test_a_site_in_a_while_loop():
    def fn(p, x):
        return jax.lax.fori_loop(0, jnp.argmax(x[0]), lambda _, x: x @ p["w"], x)

    params, x = {"w": normal(1, 4, 4)}, jnp.eye(4)[::-1]
    graph = trace(fn, params, x)
    sites = assign(graph, Policy((Rule("*", Weights("int4"), None),), edges=None))
    scales = weight_scales(graph, sites, params)
    chosen = jax.jit(choose(graph, {"int4": Option(sites, scales)}))
    for k, scales_in in ((0, {}), (1, scales)):
        found = chosen(params, {"int4": scales}, {"w": np.int32(k)}, x)
        expected = simulate(graph, sites)(params, scales_in, x)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bad_requests_are_refused():
    graph, params, x, options = searched("image")
    effects = Effects({"a": {"int4": 0.5}})
    with pytest.raises(ValueError, match="unknown name 'k'; did you mean 'kl'"):
        effects.tables({}, by="k")
    with pytest.raises(ValueError, match="by is 'loss', which was not measured"):
        effects.tables({"a": {"int4": 1}}, by="loss")
    with pytest.raises(ValueError, match="costs has no 'int4' of site 'a'"):
        effects.tables({"a": {"int8": 1}})
    with pytest.raises(ValueError, match=r"site 'a' in format 'int4' is \(nan, 1\)"):
        allocate(Effects({"a": {"int4": float("nan")}}).tables({"a": {"int4": 1}}), budget=1)
    with pytest.raises(ValueError, match="quantize no site"):
        measure_sites(graph, params, {"int8": Option({}, {})}, [(x,)])
    with pytest.raises(ValueError, match="batches is empty"):
        measure_sites(graph, params, options, [])
    with pytest.raises(ValueError, match="no site is named 'heat'; nearest: head"):
        choose(graph, options)(params, scales_of(options), {"heat": 1}, x)

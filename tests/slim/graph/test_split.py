"""Functions in parts: all parts in turn are the function, and no part does another's work."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.ad_checkpoint import checkpoint_name

from slim import models, paths
from slim.graph import cost, match, replay, shrink, split, split_outputs, tapped, taps, trace
from slim.models.bert import BertConfig, SequenceClassification
from slim.models.vit import ViT
from slim.quant import Activations, Policy, Rule, assign, calibrate, simulate
from tests.slim.graph.exactness import loss_of, random_like, random_plan
from tests.slim.graph.random_programs import RECIPES, build
from tests.slim.graph.test_random_programs import SETTINGS

KEY = jax.random.key(0)
IMAGES = random_like(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), seed=1)
IDS = np.random.default_rng(0).integers(0, 50, (2, 6)).astype(np.int32)
MASK = (np.arange(6) < np.array([[6], [4]])).astype(np.int32)
CONFIG = BertConfig(width=8, depth=3, heads=2, hidden=12, vocabulary=50, positions=8, dropout=0.0)
BERT = SequenceClassification(CONFIG, num_classes=4)
MODELS = {
    "bert": (BERT, (IDS, MASK)),
    "vit": (ViT(width=8, depth=2, heads=2, num_classes=3, patch_size=4), (IMAGES,)),
    "resnet8": (models.create("resnet8", num_classes=3, width=4), (IMAGES,)),
}


def prepare(name):
    """(function, variables, inputs) of a model."""
    module, inputs = MODELS[name]
    shapes = jax.eval_shape(lambda key: module.init(key, *inputs, train=False), jax.random.key(0))
    return lambda v, *inputs: module.apply(v, *inputs, train=False), random_like(shapes), inputs


@pytest.fixture(scope="module")
def bert():
    fn, variables, inputs = prepare("bert")
    return trace(fn, variables, *inputs), variables, inputs


def entering(graph):
    """What enters each block but the first, and what the last leaves."""
    return [*match(graph, "*", "block")[1:], *match(graph, "*", "end")]


def assert_whole(graph, names, params, *inputs):
    """Every segment's value is the tap's, the last one's the outputs; to the bit."""
    segments = split(graph, names)

    def both(params, *inputs):
        return segments(params, *inputs), tapped(graph, names)(params, *inputs)

    values, (outputs, found) = jax.jit(both)(params, *inputs)
    chex.assert_trees_all_equal(values, [*(found[name] for name in names), outputs])
    chex.assert_trees_all_equal(outputs, jax.jit(graph.fn)(params, *inputs))
    return segments


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    fn, variables, inputs = prepare(name)
    graph = trace(fn, variables, *inputs)
    segments = assert_whole(graph, entering(graph), variables, *inputs)
    # One example more: traced again.
    more = [np.concatenate([each, each[:1]]) for each in inputs]
    chex.assert_trees_all_close(
        jax.jit(segments)(variables, *more)[-1], jax.jit(fn)(variables, *more), rtol=1e-6
    )


def test_a_pruned_function():
    fn, variables, inputs = prepare("vit")
    graph = trace(fn, variables, *inputs)
    plan = random_plan(graph)
    small = shrink(plan, variables)
    pruned = trace(replay(graph, plan), small, *inputs)
    assert entering(pruned) == entering(graph)
    assert_whole(pruned, entering(pruned), small, *inputs)


def test_a_quantized_function():
    fn, variables, inputs = prepare("vit")
    graph = trace(fn, variables, *inputs)
    sites = assign(graph, Policy((Rule("*", activations=Activations("int8")),), edges=None))
    scales = calibrate(graph, sites, variables, [inputs])
    quantized = simulate(graph, sites)
    both = trace(lambda p, x: quantized(*p, x), (variables, scales), *inputs)
    assert_whole(both, match(both, "*/attention/*", "block")[1:], (variables, scales), *inputs)


def check_random(recipe, seed, picks):
    """Cut anywhere: the values and outputs are the function's, and no contraction runs twice."""
    with jax.enable_x64(True):
        fn, params, x = build(recipe, seed)
        graph = trace(fn, params, x)
        names = [name for name in match(graph, "*", "result") if not taps(graph)[name].loops]
        chosen = [names[i] for i in sorted({pick % len(names) for pick in picks})]
        segments = assert_whole(graph, chosen, params, x)
        parts = segments.at(params, x)
        macs = [
            cost(trace(part.run, part.own(paths.flatten(params)), list(part.takes))).macs
            for part in parts
        ]
        assert sum(macs) == cost(graph).macs
    jax.clear_caches()


PICKS = st.lists(st.integers(0, 99), min_size=1, max_size=4)


@settings(max_examples=4, **SETTINGS)
@given(RECIPES, st.integers(0, 99), PICKS)
def test_random_programs(recipe, seed, picks):
    check_random(recipe, seed, picks)


@pytest.mark.slow
@settings(max_examples=200, **SETTINGS)
@given(RECIPES, st.integers(0, 99), PICKS)
def test_two_hundred_random_programs(recipe, seed, picks):
    check_random(recipe, seed, picks)


def test_what_crosses_and_what_each_part_reads(bert):
    """The hidden state and the mask cross; every parameter is read by one part alone."""
    graph, variables, inputs = bert
    names = match(graph, "*/layer_*/attention/*", "block")[1:]
    segments = split(graph, names)
    parts = segments.at(variables, *inputs)
    assert segments.names == (*names, "outputs")
    assert [part.name for part in parts] == list(segments.names)
    for part, following in pairwise(parts):
        assert part.gives == following.takes
        assert [(leaf.shape, leaf.dtype) for leaf in part.gives] == [
            ((2, 6), jnp.int32),
            ((2, 6, 8), jnp.float32),
        ]
    assert parts[-1].gives == ()
    for i, part in enumerate(parts):
        own = {path.split("/")[1] for path in part.params}
        ends = ({"embeddings"}, set(), {"pooler", "classifier"})[i]
        assert own == {f"layer_{i}", *ends}
    # A part needs no parameter but its own.
    layer = {"params": {"layer_0": variables["params"]["layer_0"]}}
    layer["params"]["embeddings"] = variables["params"]["embeddings"]
    value, _ = parts[0](layer, segments.enter(*inputs))
    chex.assert_trees_all_equal(value, segments(variables, *inputs)[0])


def test_gradients_touch_only_the_path_taken(bert):
    graph, variables, inputs = bert
    names = match(graph, "*/layer_*/attention/*", "block")[1:]
    segments = split(graph, names)

    def loss(fn):
        return jax.jit(jax.grad(lambda v: loss_of(fn(v))))(variables)["params"]

    found = loss(lambda v: segments(v, *inputs)[0])
    expected = loss(lambda v: tapped(graph, names)(v, *inputs)[1][names[0]])
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found["layer_1"]))


W = {name: jax.random.normal(jax.random.fold_in(KEY, i), (4, 4)) for i, name in enumerate("abc")}
X = jax.random.normal(KEY, (3, 4))


def test_what_no_cut_needs_waits_and_what_is_fixed_does_not_cross():
    """Work for the end is done at the end; a constant table is made where it is read."""

    def fn(p, x):
        late = jnp.sin(x).sum(-1)
        table = jnp.tril(p["c"].astype(jnp.bfloat16)).astype(jnp.float32)
        x = x @ p["a"] @ table
        return checkpoint_name(x, "cut") @ table @ p["b"] + late[:, None]

    graph = trace(fn, W, X)
    first, last = split(graph, ["cut"]).at(W, X)
    assert (list(first.params), list(last.params)) == (["a", "c"], ["b", "c"])
    assert [leaf.shape for leaf in first.gives] == [(3, 4), (3, 4)]
    primitives = str(jax.make_jaxpr(first.run)(first.own(W), first.takes))
    assert " sin " not in primitives
    assert_whole(graph, ["cut"], W, X)


def test_a_derivative_of_its_own_is_kept():
    @jax.custom_jvp
    def half(x):
        return jnp.tanh(x)

    half.defjvp(lambda primals, tangents: (half(*primals), 0.5 * tangents[0]))

    @jax.jit
    def fn(p, x):
        return half(checkpoint_name(half(x @ p["a"]), "cut") @ p["b"])

    segments = split(trace(fn, W, X), ["cut"])
    chex.assert_trees_all_close(
        jax.grad(lambda p: segments(p, X)[-1].sum())(W), jax.grad(lambda p: fn(p, X).sum())(W)
    )


def test_an_effect_happens_once(capsys):
    def fn(p, x):
        jax.debug.print("seen")
        return checkpoint_name(x @ p["a"], "cut") @ p["b"]

    jax.jit(split(trace(fn, W, X), ["cut"]))(W, X)
    jax.effects_barrier()
    assert capsys.readouterr().out == "seen\n"


@jax.jit
def with_exits(p, x):
    first = x @ p["a"]
    second = jnp.tanh(first @ p["b"])
    return {"logits": first.sum(-1), "hidden": first}, second, second @ p["c"]


def test_cut_at_outputs():
    segments = split_outputs(trace(with_exits, W, X))
    values = jax.jit(segments)(W, X)
    chex.assert_trees_all_equal(values, list(jax.jit(with_exits)(W, X)))
    assert [list(part.params) for part in segments.at(W, X)] == [["a"], ["b"], ["c"]]
    assert segments.names == ("0", "1", "2")


def test_refusals(bert):
    graph, variables, inputs = bert
    names = match(graph, "*/layer_*/attention/*", "block")
    for given_names, message in (
        ([], "boundaries: none given"),
        (["layer"], "no tap is named 'layer'; nearest"),
        ([names[1], names[1]], "is given twice"),
        (names[::-1], r"'params/layer_1.*' is had as soon as what comes before it.*program order"),
    ):
        with pytest.raises(ValueError, match=message):
            split(graph, given_names)
    (first, *_) = split(graph, names).at(variables, *inputs)
    with pytest.raises(ValueError, match=r"takes int32\[2, 6\], int32\[2, 6\], but was"):
        first(variables, [IDS])
    with pytest.raises(ValueError, match="lacks the parameter 'params/embeddings/"):
        first({"params": {}}, inputs)
    rounds = jnp.stack([W["a"], W["b"]])
    scanned = trace(lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p)[0], rounds, X)
    with pytest.raises(ValueError, match=r"inside a scan of 2 rounds \(test_split.py.*write its"):
        split(scanned, match(scanned, "*", "result"))
    with pytest.raises(ValueError, match="'1' is had as soon as what comes before it, '0'"):
        split_outputs(trace(lambda p, x: (x @ p["a"],) * 2, W, X))
    with pytest.raises(ValueError, match="outputs of type ShapeDtypeStruct"):
        split_outputs(trace(lambda p, x: x @ p["a"], W, X))

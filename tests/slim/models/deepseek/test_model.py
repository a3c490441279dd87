"""The decoder beside the same thing in NumPy, and its two forms beside each other."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from slim.models.deepseek import (
    DeepSeek,
    DeepSeekConfig,
    Layout,
    Yarn,
    auxiliary,
    decode,
    deepseek_config,
    empty_cache,
)
from slim.models.deepseek.count import shapes
from slim.models.deepseek.rotary import amplitude, frequencies, softmax_scale
from slim.models.deepseek.sharding import specs
from slim.moe.mixture import buckets
from slim.paths import flatten, map_with_path
from tests.slim.models.deepseek import reference

V3 = DeepSeekConfig(
    vocabulary=30,
    width=32,
    depth=3,
    dense_layers=1,
    heads=2,
    query_rank=12,
    latent=10,
    head_width=6,
    rotary_width=4,
    value_width=5,
    hidden=20,
    experts=8,
    active=3,
    shared=2,
    expert_hidden=7,
    groups=4,
    groups_kept=2,
    predict_ahead=2,
    yarn=Yarn(factor=4.0, positions=8, fast=2.0, slow=0.3, mscale=1.0, mscale_all=0.7),
)
V2 = replace(
    V3,
    query_rank=0,
    router="softmax",
    normalize=False,
    scale=1.5,
    groups=1,
    groups_kept=1,
    bias_rate=0.0,
    predict_ahead=0,
    yarn=None,
)
CONFIGS = {"v3": V3, "v2": V2, "dense": replace(V3.dense(), predict_ahead=0)}
every_config = pytest.mark.parametrize("name", CONFIGS)
MIX = buckets(8.0)  # of 8 experts: nothing is dropped, and it compiles soon
COLLECTIONS = ["router", "losses", "load"]

IDS = np.random.default_rng(0).integers(0, 30, (2, 9)).astype(np.int32)


def random_variables(config):
    rng = np.random.default_rng(1)

    def values(path, leaf):
        centre = 1.0 if path.endswith("scale") else 0.0
        return rng.normal(centre, 0.2, leaf.shape).astype(np.float32)

    return map_with_path(values, shapes(config))


@pytest.fixture(scope="module")
def variables():
    return {name: random_variables(config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def trained(variables):
    """States in training with what is sown, of every config."""

    def call(name):
        model = DeepSeek(CONFIGS[name], MIX)
        apply = partial(model.apply, train=True, method="states", mutable=COLLECTIONS)
        return jax.jit(apply)(variables[name], IDS)

    return {name: call(name) for name in CONFIGS}


@every_config
def test_the_whole_decoder_is_the_papers(name, variables, trained):
    config = CONFIGS[name]
    exact = jax.tree.map(np.float64, variables[name])
    constants = frequencies(config).astype(np.float64), amplitude(config), softmax_scale(config)
    for text in range(2):
        expected = reference.states(exact, IDS[text], config, *constants)
        assert len(expected) == 1 + config.predict_ahead
        for ours, theirs in zip(trained[name][0], expected, strict=True):
            np.testing.assert_allclose(ours[text], theirs, atol=2e-5)


@every_config
def test_decoding_by_the_cache_is_the_whole_decoder(name, variables, trained):
    """A prompt, then a token, then the rest, in the absorbed form; the cache has room to spare."""
    model = DeepSeek(CONFIGS[name], MIX)

    @jax.jit
    def pieces(variables, ids):
        cache, found = empty_cache(CONFIGS[name], 2, 12), []
        for start, stop in ((0, 5), (5, 6), (6, 9)):
            logits, cache = decode(model, variables, ids[:, start:stop], cache, start)
            found.append(logits)
        return jnp.concatenate(found, axis=1)

    expected = trained[name][0][0] @ variables[name]["params"]["head"]
    np.testing.assert_allclose(pieces(variables[name], IDS), expected, atol=1e-5)


def test_layers_say_what_experts_were_chosen_and_biases_move_against_it(variables, trained):
    new = trained["v3"][1]
    aux = auxiliary(new)
    # Two stacked layers, then the two that predict ahead.
    np.testing.assert_array_equal(aux.load.sum(-1), [IDS.size * V3.active] * 4)
    np.testing.assert_array_equal(aux.load[:2], new["load"]["sparse"]["mlp"]["load"])
    np.testing.assert_array_equal(aux.load[2], new["load"]["ahead_0"]["layer"]["mlp"]["load"])
    np.testing.assert_array_equal(aux.dropped, [0] * 4)

    before, after = flatten(variables["v3"]["router"]), flatten(new["router"])
    moved = [after["sparse/mlp/bias"] - before["sparse/mlp/bias"]]
    moved += [(after[p] - before[p])[None] for p in before if p.startswith("ahead")]
    load = np.asarray(aux.load)
    expected = V3.bias_rate * np.sign(load.mean(-1, keepdims=True) - load)
    np.testing.assert_allclose(np.concatenate(moved), expected, atol=1e-7)

    assert {n: loss.shape for n, loss in aux.losses.items()} == {"sequence": (4,), "z": (4,)}
    total = aux.loss({"sequence": 0.5, "z": 0.0})
    np.testing.assert_allclose(total, 0.5 * aux.losses["sequence"].sum(), rtol=1e-6)
    with pytest.raises(ValueError, match="unknown name 'sequences'; did you mean 'sequence'"):
        aux.loss({"sequences": 1.0})


def test_without_training_or_experts_nothing_moves_or_is_told(variables, trained):
    model = DeepSeek(V3, MIX)
    _, new = model.apply(variables["v3"], IDS, train=False, mutable=COLLECTIONS)
    chex.assert_trees_all_equal(new["router"], variables["v3"]["router"])
    assert "router" not in trained["v2"][1]
    with pytest.raises(ValueError, match="collection 'load' is missing"):
        auxiliary(trained["dense"][1])


def test_every_parameter_has_a_gradient_that_says_how_the_loss_changes():
    """With rematerialization; of the tokens ahead alone, whose loss passes through all there is."""
    config = replace(V3, depth=1, dense_layers=0, predict_ahead=1)
    model, given = DeepSeek(config, MIX, remat=True), random_variables(config)

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params):
        state = model.apply({**given, "params": params}, IDS, train=True, method="states")[-1]
        return jnp.square(model.apply({"params": params}, state, method="logits")).mean()

    _, gradient = loss_and_gradient(given["params"])
    for path, value in flatten(gradient).items():
        assert np.isfinite(value).all(), path
        assert np.any(value), path
    size = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    there, back = (
        jax.tree.map(lambda p, g: p + np.float32(step / size) * g, given["params"], gradient)  # noqa: B023
        for step in (1e-3, -1e-3)
    )
    slope = (loss_and_gradient(there)[0] - loss_and_gradient(back)[0]) / 2e-3
    assert slope == pytest.approx(size, rel=0.01)


def test_in_bfloat16_parameters_and_logits_are_float32_and_near(variables, trained):
    model = DeepSeek(V3, MIX, dtype=jnp.bfloat16)
    logits = model.apply(variables["v3"], IDS, train=False)
    assert logits.dtype == jnp.float32
    exact = trained["v3"][0][0] @ variables["v3"]["params"]["head"]
    # A token whose experts nearly tie may go elsewhere.
    assert 0 < np.median(np.abs(logits - exact)) < 0.02 * np.abs(exact).max()


def test_over_a_mesh_it_is_the_same(variables):
    """Parameters by the table, the activations' places fixed."""
    config = replace(deepseek_config("tiny"), depth=2, predict_ahead=0)
    given = random_variables(config)
    mesh = jax.make_mesh(
        (1, 2, 2, 2), ("data", "fsdp", "expert", "tensor"), axis_types=(AxisType.Auto,) * 4
    )
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(given, mesh.shape))
    ids = np.resize(IDS, (4, 3))
    batch = jax.P(("data", "fsdp", "expert"))
    model = DeepSeek(config, MIX)
    apply = jax.jit(partial(model.clone(layout=Layout(mesh)).apply, train=False))
    logits = apply(jax.device_put(given, places), jax.device_put(ids, NamedSharding(mesh, batch)))
    np.testing.assert_allclose(logits, model.apply(given, ids, train=False), atol=1e-4)


def test_what_is_missing_or_unknown_is_named():
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)

    with pytest.raises(ValueError, match="unknown name 'sequenc'; did you mean 'sequence'"):
        jax.eval_shape(
            partial(DeepSeek(V3, MIX, auxiliary=("sequenc",)).apply, train=True),
            shapes(V3),
            ids,
        )
    for change, message in {
        "active": (9, "k is 9; allowed: at most the 8 experts"),
        "groups": (3, "groups is 3; it must divide the 8 experts"),
        "rotary_width": (5, "rotary_width = 5 must be even"),
        "dense_layers": (4, "dense_layers = 4 must be from 0 to depth = 3"),
        "router": ("sigmoids", "unknown name 'sigmoids'; did you mean 'sigmoid'"),
        "latent": (0, "latent = 0 must be at least 1"),
    }.items():
        value, text = message
        with pytest.raises(ValueError, match=text):
            replace(V3, **{change: value})
    with pytest.raises(ValueError, match="unknown name 'v4'"):
        deepseek_config("v4")
    with pytest.raises(ValueError, match=r"fast = 1.0 of YaRN must be above slow = 1.0"):
        Yarn(fast=1.0)

"""Decoders with fewer experts are the old ones with others closed, or with equal ones as one."""

from dataclasses import replace
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models.deepseek import DeepSeek, DeepSeekConfig, decode, deepseek_config, empty_cache
from slim.models.deepseek.compress import (
    ExpertPlan,
    merge,
    plan_merging,
    plan_pruning,
    prune,
    router_logits,
    use_of,
)
from slim.models.deepseek.count import flops, flops_of, parameters, shapes
from slim.models.deepseek.sharding import specs
from slim.moe import Experts, gate_load, load, reference
from slim.moe.compress import permute_hidden
from slim.paths import flatten, unflatten

CONFIG = DeepSeekConfig(
    vocabulary=30,
    width=16,
    depth=3,
    dense_layers=1,
    heads=2,
    query_rank=0,
    latent=8,
    head_width=6,
    rotary_width=4,
    value_width=5,
    hidden=20,
    experts=8,
    active=2,
    expert_hidden=7,
    groups=2,
    groups_kept=2,
    predict_ahead=1,
    yarn=None,
    init_std=0.3,
)
IDS = jax.random.randint(jax.random.key(1), (2, 6), 0, 30)
MIXTURES = ("sparse/mlp", "ahead_0/layer/mlp")
MIX = reference()


def decoder(**changes):
    return DeepSeek(replace(CONFIG, **changes), MIX)


@cache
def variables():
    """Of the decoder, with routers' biases."""
    made = jax.jit(lambda key: decoder().init(key, IDS, train=False))(jax.random.key(0))
    bias = jax.tree.map(
        lambda leaf: 0.2 * jax.random.normal(jax.random.key(2), leaf.shape), made["router"]
    )
    return {"params": made["params"], "router": bias}


def changed(tree, path, change):
    flat = flatten(tree)
    return unflatten({**flat, path: change(flat[path])})


def states(model, tree):
    """All states, of the tokens ahead too."""
    return jax.jit(lambda tree: model.apply(tree, IDS, train=True, method="states"))(tree)


@pytest.fixture(scope="module")
def seen():
    logits = jax.jit(lambda tree: router_logits(decoder(), tree, IDS))(variables())
    return logits, {name: use_of(CONFIG, variables(), name, logits[name], load) for name in logits}


def test_routers_logits_say_what_layers_count(seen):
    logits, use = seen
    assert {name: each.shape for name, each in logits.items()} == {
        "sparse/mlp": (2, IDS.size, 8),
        "ahead_0/layer/mlp": (1, IDS.size, 8),
    }
    _, sown = decoder().apply(variables(), IDS, train=False, mutable=["load"])
    counted = sown["load"]["sparse"]["mlp"]["load"]
    np.testing.assert_array_equal(use["sparse/mlp"], counted)
    gates = use_of(CONFIG, variables(), "sparse/mlp", logits["sparse/mlp"], gate_load)
    np.testing.assert_allclose(gates.sum(-1), CONFIG.scale * IDS.size, rtol=1e-6)


def test_a_pruned_decoder_is_the_old_one_with_the_others_closed(seen):
    plan = plan_pruning(seen[1], 4, CONFIG.groups)
    small = prune(variables(), plan)
    assert plan.sizes == {"experts": 4}
    masked = variables()
    for name in MIXTURES:
        kept = np.array(plan.parts[name])[..., 0]
        closed = np.full((len(kept), 8), -np.inf, np.float32)
        np.put_along_axis(closed, kept, 0, axis=1)
        masked = changed(masked, f"router/{name}/bias", lambda b, c=closed: b + c.reshape(b.shape))
    chex.assert_trees_all_close(
        states(decoder(**plan.sizes), small), states(decoder(), masked), atol=1e-5
    )
    experts = flatten(small)["params/sparse/mlp/experts/gate"]
    assert experts.shape == (2, 4, 16, 7)
    chex.assert_trees_all_equal_shapes_and_dtypes(small, shapes(replace(CONFIG, **plan.sizes)))


IN_PAIRS = ((0, 4), (1, 5), (2, 6), (3, 7))
PAIRS = ExpertPlan(True, {"sparse/mlp": (IN_PAIRS,) * 2, "ahead_0/layer/mlp": (IN_PAIRS,)})


def twins():
    """Variables in which expert e + 4 is e, with its hidden units in another order."""
    tree = variables()
    for name in MIXTURES:
        place = f"params/{name}/experts/"
        leaves = [flatten(tree)[place + each] for each in Experts._fields]
        stacked = leaves[0].ndim == 4
        layers = Experts(*(leaf if stacked else leaf[None] for leaf in leaves))
        half = jax.tree.map(lambda leaf: leaf[:, :4], layers)
        order = jnp.tile(jnp.arange(7)[::-1], (4, 1))
        other = jax.vmap(lambda experts, order=order: permute_hidden(experts, order))(half)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), half, other)
        for each, leaf in both._asdict().items():
            tree = changed(
                tree, place + each, lambda _, leaf=leaf, s=stacked: leaf if s else leaf[0]
            )
    return tree


def test_experts_that_are_equal_but_for_the_order_of_units_become_one_and_nothing_changes():
    use = {name: jnp.ones((len(PAIRS.parts[name]), 8)) for name in MIXTURES}
    small = merge(twins(), PAIRS, use)
    model = decoder(**PAIRS.sizes)
    whole = states(decoder(), twins())
    chex.assert_trees_all_close(states(model, small), whole, atol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(small, shapes(model.config))
    np.testing.assert_array_equal(
        small["router"]["sparse"]["mlp"]["assignment"][0], [0, 1, 2, 3] * 2
    )

    logits = model.apply(small, IDS, train=False)
    cache = empty_cache(model.config, *IDS.shape)
    first, cache = decode(model, small, IDS[:, :4], cache, 0)
    rest, _ = decode(model, small, IDS[:, 4:], cache, 4)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), logits, atol=1e-5)
    new = model.apply(small, IDS, train=True, mutable=["router"])[1]["router"]["sparse"]["mlp"]
    assert np.any(new["bias"] != small["router"]["sparse"]["mlp"]["bias"])
    np.testing.assert_array_equal(new["assignment"], PAIRS.assignment("sparse/mlp"))


def test_those_are_merged_that_the_router_wants_for_the_same_tokens():
    logits = jax.random.normal(jax.random.key(3), (1, 50, 4))
    logits = jnp.concatenate([logits, 2 * logits], axis=-1)
    use = {"sparse/mlp": jnp.array([[5, 1, 5, 1, 1, 5, 1, 5]])}
    plan = plan_merging(use, {"sparse/mlp": logits}, 4)
    assert plan.parts == {"sparse/mlp": (((0, 4), (2, 6), (1, 5), (3, 7)),)}


@pytest.mark.parametrize("plan", [PAIRS, ExpertPlan(False, {"sparse/mlp": (((1,), (3,)),)})])
def test_a_plan_is_read_as_it_was_written(plan):
    assert ExpertPlan.from_json(plan.to_json()) == plan


def test_merged_experts_are_counted_once_and_the_rest_of_the_counting_follows_shapes():
    config = deepseek_config("tiny")
    merged = replace(config, merged=4)
    each = 3 * config.width * config.expert_hidden
    assert parameters(config).total - parameters(merged).total == 2 * 4 * each
    assert parameters(merged).active == parameters(config).active
    assert flops(merged, 10) == flops(config, 10)
    narrow = replace(config, expert_hidden=32, experts=4)
    assert flops_of(shapes(narrow)["params"], narrow.active, 10) == flops(narrow, 10)
    assert "assignment" in specs(shapes(merged), {"expert": 2})["router"]["sparse"]["mlp"]


@pytest.mark.parametrize("merged", [1, 9])
def test_so_many_experts_cannot_be_left(merged):
    with pytest.raises(ValueError, match=f"merged = {merged} must be from active = 2 to experts"):
        replace(CONFIG, merged=merged)


def test_too_few_experts_are_refused(seen):
    with pytest.raises(ValueError, match="groups is 2; it must divide the 8 experts and keep = 3"):
        plan_pruning(seen[1], 3, CONFIG.groups)

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import paths
from slim.graph import cost, groups, make_plan, mask, replay, shrink, trace
from slim.models.bert import BertConfig, SequenceClassification
from slim.prune import drop_blocks, drop_params, residual_blocks

X = jax.random.normal(jax.random.key(0), (5, 6))


def init_params():
    shapes = {
        "block1": {"down": (4, 6), "shift": (6,), "up": (6, 4)},
        "block2": {"down": (4, 6), "up": (6, 4)},
        "embed": {"kernel": (6, 6)},
        "head": {"kernel": (6, 3)},
    }
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [jax.random.normal(k, s) for k, s in zip(keys, leaves, strict=True)]
    return {"params": tree.unflatten(drawn), "stats": {"block1": jnp.ones(4), "head": jnp.ones(6)}}


def model(variables, x, *, train=False):
    """Two residual blocks, the first normalized by running statistics, inside an inner `jit`."""
    params, stats = variables["params"], variables["stats"]
    x = x @ params["embed"]["kernel"]

    @jax.jit
    def blocks(params, x):
        first, second = params["block1"], params["block2"]
        hidden = x @ first["up"]
        mean = hidden.mean(0) if train else stats["block1"]
        x = x + (jnp.tanh(hidden - mean) @ first["down"] + first["shift"])
        return jax.nn.gelu(x @ second["up"]) @ second["down"] + x, hidden.mean(0)

    x, mean = blocks(params, x)
    logits = (x - stats["head"]) @ params["head"]["kernel"]
    if not train:
        return logits
    means = {"block1": mean, "head": x.mean(0)}
    return logits, {"stats": jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats, means)}


GRAPH = trace(model, init_params(), X)
BLOCKS = {block.name: block for block in residual_blocks(GRAPH)}


def without(variables, *names):
    """By hand: a branch that ends in zeros adds nothing."""
    params = {name: dict(layer) for name, layer in variables["params"].items()}
    for name in names:
        params[name]["down"] = params[name]["down"] * 0
        if "shift" in params[name]:
            params[name]["shift"] = params[name]["shift"] * 0
    return {**variables, "params": params}


def test_blocks_are_found_with_all_that_is_theirs():
    assert list(BLOCKS) == ["params/block1/down", "params/block2/down"]
    assert BLOCKS["params/block1/down"].params == (
        "params/block1/down",
        "params/block1/shift",
        "params/block1/up",
        "stats/block1",
    )


@pytest.mark.parametrize("layers", [("block1",), ("block2",), ("block1", "block2"), ()])
def test_the_small_function_is_the_one_whose_branches_are_zero(layers):
    variables = init_params()
    chosen = [BLOCKS[f"params/{layer}/down"] for layer in layers]
    small = drop_params(chosen, variables)
    fn = jax.jit(drop_blocks(GRAPH, [block.name for block in chosen]))
    np.testing.assert_allclose(fn(small, X), model(without(variables, *layers), X), rtol=1e-5)
    # At another batch size too.
    np.testing.assert_allclose(
        fn(small, X[:2]), model(without(variables, *layers), X[:2]), rtol=1e-5
    )
    gone = sum(4 * 6 * 2 + 10 * (layer == "block1") for layer in layers)
    left = sum(leaf.size for leaf in jax.tree.leaves(small))
    assert left == sum(leaf.size for leaf in jax.tree.leaves(variables)) - gone


def test_gradients_pass_through_the_small_function():
    variables, chosen = init_params(), [BLOCKS["params/block1/down"]]
    fn = drop_blocks(GRAPH, ["params/block1/down"])
    small = jax.grad(lambda v: jnp.square(fn(v, X)).mean())(drop_params(chosen, variables))
    full = jax.grad(lambda v: jnp.square(model(v, X)).mean())(without(variables, "block1"))
    chex.assert_trees_all_close(small, drop_params(chosen, full), rtol=1e-4, atol=1e-6)


def test_a_training_function_is_cut_by_the_same_names():
    variables, chosen = init_params(), [BLOCKS["params/block1/down"]]
    training = trace(lambda v, x: model(v, x, train=True), variables, X)
    assert [block.name for block in residual_blocks(training)] == list(BLOCKS)
    fn = drop_blocks(training, ["params/block1/down"])
    logits, updated = fn(drop_params(chosen, variables), X)
    np.testing.assert_allclose(logits, model(without(variables, "block1"), X), rtol=1e-5)
    assert updated["stats"]["block1"] is None
    assert updated["stats"]["head"].shape == (6,)


def test_what_is_left_is_a_function_like_any_other():
    """Traced, counted, and cut in width."""
    small = drop_params([BLOCKS["params/block2/down"]], init_params())
    graph = trace(drop_blocks(GRAPH, ["params/block2/down"]), small, X)
    assert cost(graph).macs == cost(GRAPH).macs - 2 * 5 * 6 * 4
    (hidden,) = [g for g in groups(graph) if g.size == 4]
    plan = make_plan(graph, {hidden.name: [0, 2]})
    np.testing.assert_allclose(
        replay(graph, plan)(shrink(plan, small), X), graph.fn(mask(plan, small), X), rtol=1e-5
    )


def test_shared_parameters_and_plain_sums_are_no_blocks():
    def fn(params, x):
        x = x @ params["w"]
        y = x + jnp.tanh(x)  # no parameters
        y = y + jnp.tanh(y @ params["w"])  # none of its own
        return y + x @ params["v"]  # beside it, not on top of it

    w = jnp.ones((6, 6))
    assert residual_blocks(trace(fn, {"w": w, "v": w}, X)) == ()


def test_optimizer_states_lose_the_same_leaves():
    params = init_params()["params"]
    state = {"mu": {"params": params}, "count": jnp.zeros(())}
    small = drop_params([BLOCKS["params/block2/down"]], state)
    assert small["mu"]["params"]["block2"] == {"down": None, "up": None}
    chex.assert_trees_all_equal(small["mu"]["params"]["block1"], params["block1"])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'params/block3/down'; nearest: params/block"):
        drop_blocks(GRAPH, ["params/block3/down"])


def test_a_layer_that_normalizes_last_goes_with_its_norms() -> None:
    def bert(depth: int) -> Any:
        config = BertConfig(width=8, depth=depth, heads=2, hidden=16, vocabulary=20, dropout=0.0)
        return SequenceClassification(config)

    ids = jnp.arange(12).reshape(2, 6)
    whole = bert(3)
    params = whole.init(jax.random.key(0), ids, ids != 0, train=False)["params"]
    graph = trace(
        lambda params, ids: whole.apply({"params": params}, ids, ids != 0, train=False), params, ids
    )
    dropped = [block for block in residual_blocks(graph) if block.name.startswith("layer_2/")]
    small = {name: entry for name, entry in params.items() if name != "layer_2"}
    left = paths.flatten(drop_params(dropped, params))
    assert left.keys() == paths.flatten(small).keys()
    fn = drop_blocks(graph, [block.name for block in dropped])
    expected = bert(2).apply({"params": small}, ids, ids != 0, train=False)
    chex.assert_trees_all_close(fn(left, ids), expected, rtol=1e-6)

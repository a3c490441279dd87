import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import paths
from slim.dynamic.slimmable import (
    at_ratio,
    narrow,
    nest,
    nested_depths,
    own_statistics,
    sandwich_loss,
    sort_units,
)
from slim.graph import groups, make_plan, replay, shrink, trace
from slim.prune.depth import Block, drop_blocks, residual_blocks
from slim.prune.widths import Limits
from slim.quant.batch_statistics import reestimate

KEEPS = (1.0, 0.75, 0.5, 0.25)


def network(variables, x, train=False):
    """Two layers with batch normalization between; new statistics are the second result."""
    p, stats = variables["params"], variables["batch_stats"]
    h = x @ p["a"]
    mean, var = (h.mean(0), h.var(0)) if train else (stats["mean"], stats["var"])
    h = jax.nn.relu((h - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"])
    new = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var}
    return h @ p["b"], {"batch_stats": new}


def make_variables():
    rng = np.random.default_rng(0)
    shapes = {"a": (5, 8), "scale": (8,), "b": (8, 3)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    stats = {
        "mean": rng.normal(size=8).astype(np.float32),
        "var": rng.random(8).astype(np.float32) + 1,
    }
    return {"params": params, "batch_stats": stats}


VARIABLES = make_variables()
X = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
LABELS = np.random.default_rng(2).integers(0, 3, 16)
NAME = "params/a:1"
SCORES = {NAME: np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])}


@pytest.fixture(scope="module")
def graph():
    return trace(lambda v, x: network(v, x)[0], VARIABLES, X)


@pytest.fixture(scope="module")
def nested(graph):
    return nest(graph, SCORES, [at_ratio(SCORES, keep) for keep in KEEPS])


@pytest.fixture(scope="module")
def ordered(nested):
    return sort_units(nested, VARIABLES)


def test_the_order_is_of_the_scores(graph, nested):
    assert [group.name for group in groups(graph)] == [NAME]
    assert nested.order[NAME].tolist() == [5, 7, 4, 2, 0, 6, 1, 3]
    assert [plan.small_shape("params/a")[1] for plan in nested.plans] == [8, 6, 4, 2]


def test_sorting_changes_nothing(ordered):
    np.testing.assert_allclose(network(ordered, X)[0], network(VARIABLES, X)[0], atol=1e-5)


@pytest.mark.parametrize("i", range(len(KEEPS)))
def test_each_width_is_the_pruned_network(graph, nested, ordered, i):
    plan = nested.plans[i]
    pruned = make_plan(graph, {NAME: nested.order[NAME][: 8 - 2 * i]})
    expected = replay(graph, pruned)(shrink(pruned, VARIABLES), X)
    small = narrow(plan, ordered)
    chex.assert_trees_all_equal(small, shrink(plan, ordered))
    np.testing.assert_allclose(replay(graph, plan)(small, X), expected, rtol=1e-5, atol=1e-6)


def test_slices_are_no_gathers_and_gradients_arrive_at_the_one_set(nested, ordered):
    plan = nested.plans[2]
    assert "gather" not in str(jax.make_jaxpr(lambda v: narrow(plan, v))(ordered))

    def total(variables):
        return sum(leaf.sum() for leaf in jax.tree.leaves(narrow(plan, variables)))

    gradient = jax.grad(total)(ordered)["params"]["a"]
    np.testing.assert_array_equal(gradient, np.tile([1.0] * 4 + [0.0] * 4, (5, 1)))


def test_units_inside_a_product_are_taken():
    """Heads of width 3 whose inner positions are the group: no slice of the flat dimension."""
    params = {"q": jnp.ones((4, 2, 3)), "k": jnp.ones((4, 2, 3)), "v": jnp.ones((4, 6))}
    params["o"] = jnp.ones((6, 4))

    def fn(p, x):
        q, k = (jnp.einsum("tc,chw->thw", x, p[name]) for name in "qk")
        weights = jnp.einsum("thw,shw->hts", q, k)
        mixed = jnp.einsum("hts,shw->thw", weights, (x @ p["v"]).reshape(-1, 2, 3))
        return mixed.reshape(-1, 6) @ p["o"]

    params = jax.tree.map(
        lambda leaf: np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32),
        params,
    )
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    graph = trace(fn, params, x)
    scores = {g.name: np.random.default_rng(g.size).random(g.size) for g in groups(graph)}
    assert len(scores) == 3
    nested = nest(graph, scores, [at_ratio(scores, keep) for keep in (1.0, 0.5)])
    ordered = sort_units(nested, params)
    np.testing.assert_allclose(fn(ordered, x), fn(params, x), rtol=1e-4)
    small = narrow(nested.plans[1], ordered)
    chex.assert_trees_all_equal(small, shrink(nested.plans[1], ordered))


def test_each_width_has_its_own_statistics(nested, ordered):
    own = own_statistics(nested, ordered)
    assert [leaf.shape for leaf in jax.tree.leaves(own)] == [(n,) for n in (8, 8, 6, 6, 4, 4, 2, 2)]

    def train(variables, x):
        return network(variables, x, train=True)

    plan = nested.plans[2]
    found = reestimate(train, narrow(plan, ordered, own[2]), [(X,)])
    h = X @ ordered["params"]["a"][:, :4]
    np.testing.assert_allclose(found["batch_stats"]["mean"], h.mean(0), rtol=1e-5, atol=1e-6)
    new = {"batch_stats": found["batch_stats"]}
    chex.assert_trees_all_equal(narrow(plan, ordered, new), found)


@pytest.fixture(scope="module")
def networks(graph, nested):
    trained = trace(lambda v, x: network(v, x, train=True)[0], VARIABLES, X)
    functions = [replay(trained, plan) for plan in nested.plans]

    def of(fn, plan):
        return lambda params: fn(narrow(plan, params), X)

    return [of(fn, plan) for fn, plan in zip(functions, nested.plans, strict=True)]


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_sandwich_loss(networks, ordered):
    jitted = jax.jit(lambda v, key: sandwich_loss(networks, v, LABELS, key, middle=1))
    logits = [log_softmax(fn(ordered)) for fn in networks]
    hard = -logits[0][np.arange(16), LABELS].mean()
    soft = [(np.exp(logits[0]) * (logits[0] - each)).sum(1).mean() for each in logits]
    possible = {i: hard + soft[-1] + soft[i] for i in (1, 2)}
    seen = set()
    for seed in range(8):
        loss = float(jitted(ordered, jax.random.key(seed)))
        i = min(possible, key=lambda i: abs(possible[i] - loss))
        np.testing.assert_allclose(loss, possible[i], rtol=1e-4)
        seen.add(i)
    assert seen == {1, 2}
    assert jitted._cache_size() == 1


def test_the_widest_learns_from_labels_alone(networks, ordered):
    """What only the widest network has gets the gradient of the cross-entropy, and no other."""
    key = jax.random.key(0)

    def gradient(networks):
        return jax.jit(jax.grad(lambda v: sandwich_loss(networks, v, LABELS, key, middle=0)))(
            ordered
        )

    both, alone = gradient(networks), gradient([networks[0], networks[0]])
    # Distilled from itself the loss is 0 and so is its gradient.
    for path in ("params/a", "params/scale"):
        a, b = (paths.flatten(tree)[path][..., 2:] for tree in (both, alone))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_depths_are_nested():
    """Each depth is the function without the least important blocks."""
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(3, 3)).astype(np.float32) for name in "abc"}

    def fn(p, x, names="abc"):
        for name in names:
            x = x + jnp.tanh(x @ p[name])
        return x

    x = rng.normal(size=(2, 3)).astype(np.float32)
    graph = trace(fn, params, x)
    importance = {"a": 0.1, "b": 0.3, "c": 0.2}
    plans = nested_depths(residual_blocks(graph), importance, [3, 2, 1])
    for plan, left in zip(plans, ("abc", "bc", "b"), strict=True):
        small = drop_blocks(graph, [block.name for block in plan.blocks])
        np.testing.assert_allclose(small(params, x), fn(params, x, left), rtol=1e-5)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([], "widths is empty"),
        ([{NAME: 4}, {NAME: 6}], "grow from 4 to 6"),
        ([{"params/b:1": 2}], "'params/b:1', which has no scores"),
    ],
)
def test_widths_that_do_not_nest_are_refused(graph, widths, message):
    with pytest.raises(ValueError, match=message):
        nest(graph, SCORES, widths)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda nested: at_ratio(SCORES, 0.0), "keep ratio is 0.0"),
        (lambda nested: at_ratio(SCORES, 0.5, Limits(round_to=0)), "round_to=0"),
        (lambda nested: own_statistics(nested, VARIABLES, ["stats"]), "unknown name 'stats'"),
        (lambda nested: nested_depths([Block("a", ())], {"b": 1.0}, [1]), "unknown name 'a'"),
        (lambda nested: nested_depths([Block("a", ())], {"a": 1.0}, [2]), "depths has 2"),
        (
            lambda nested: sandwich_loss([len, len, len], {}, LABELS, jax.random.key(0)),
            "3 networks and middle=2",
        ),
    ],
)
def test_bad_input(nested, run, message):
    with pytest.raises(ValueError, match=message):
        run(nested)

"""Taps of small programs: against the same computation by hand, bit for bit."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from slim.graph import groups, make_plan, mask, match, replay, shrink, tapped, taps, trace
from slim.graph.taps import KINDS
from tests.slim.graph.exactness import loss_of, random_like
from tests.slim.graph.programs import PROGRAMS

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.fold_in(KEY, 9), (2, 5, 4))


def normal(seed, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, seed), shape) / 2


LAYER = {name: normal(i, 4, 4) for i, name in enumerate(("key", "out", "query", "content", "mlp"))}
STACK = jax.tree.map(lambda w: jnp.stack([w, -w, w.T]), LAYER)


def layer(p, x, keep=lambda name, value: value):
    """A block of attention and a block of one layer; `keep` sees what there is to tap."""
    x = keep("content:block", x)
    query, key, content = (keep(name, x @ p[name]) for name in ("query", "key", "content"))
    scores = keep("attention:scores", jnp.einsum("bqd,bkd->bqk", query, key) * 0.5)
    weights = keep("attention", jax.nn.softmax(scores))
    mixed = keep("out:data", jnp.einsum("bqk,bkd->bqd", weights, content))
    x = keep("mlp:block", x + keep("out", mixed @ p["out"]))
    hidden = checkpoint_name(keep("mlp", x @ p["mlp"]), "before tanh")
    return keep("mlp:end", x + jnp.tanh(hidden))


def by_hand(params, *layers):
    """Every value of every layer, by name, and the output."""
    kept, x = {}, X

    def keep(name, value):
        kept.setdefault(name, []).append(value)
        return value

    for p in layers:
        x = layer(p, x, keep)
    return x, kept


def rows(stack):
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(3)]


def test_every_value_of_a_layer():
    graph = trace(layer, LAYER, X)
    names = list(taps(graph))
    products = [name for name in names if name.startswith("dot_general at test_taps.py")]
    assert len(products) == 2
    assert names == [
        "content:block", "query:data", "query", "key:data", "key", "content:data", "content",
        products[0], "attention:scores", "attention",
        products[1], "out:data", "out", "mlp:block", "mlp:data",
        "mlp", "before tanh", "mlp:end",
    ]  # fmt: skip
    assert {tap.kind for tap in taps(graph).values()} == set(KINDS)
    outputs, found = jax.jit(tapped(graph, names))(LAYER, X)
    expected, kept = jax.jit(lambda p: by_hand(p, p))(LAYER)
    chex.assert_trees_all_equal(outputs, expected)
    chex.assert_trees_all_equal(
        {name: found[name] for name in kept}, {n: v[0] for n, v in kept.items()}
    )
    chex.assert_trees_all_equal(found["before tanh"], found["mlp"])
    chex.assert_trees_all_equal(found["query:data"], X)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_values_in_scans_are_stacked(remat, backwards):
    step = jax.checkpoint(layer) if remat else layer

    def fn(params, x):
        return jax.lax.scan(
            lambda x, p: (step(p, x), None), x, params, reverse=backwards, unroll=2
        )[0]

    graph = trace(fn, STACK, X)
    order = rows(STACK)[:: -1 if backwards else 1]
    expected, kept = jax.jit(lambda p: by_hand(p, *p))(order)
    # What the last block leaves is had once, after the scan.
    kept = {name: jnp.stack(values[:: -1 if backwards else 1]) for name, values in kept.items()}
    kept["mlp:end"] = expected
    assert all(taps(graph)[name].loops == (3,) for name in kept if name != "mlp:end")
    outputs, found = jax.jit(tapped(graph, [*kept, "before tanh"]))(STACK, X)
    chex.assert_trees_all_close(outputs, expected, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_equal(found["before tanh"], found["mlp"])
    for name, value in kept.items():
        assert taps(graph)[name].shape == value.shape
        chex.assert_trees_all_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_scans_in_scans():
    def inner(x, w):
        return jnp.tanh(x @ w), x.sum()

    def fn(params, x):
        return jax.lax.scan(lambda x, _: jax.lax.scan(inner, x, params["w"]), x, None, length=2)

    params = {"w": STACK["mlp"]}
    outputs, found = tapped(trace(fn, params, X), ["w:data", "w"])(params, X)
    x, expected = X, []
    for i in range(6):
        expected.append(x)
        x = jnp.tanh(x @ params["w"][i % 3])
    expected = jnp.stack(expected).reshape(2, 3, *X.shape)
    chex.assert_trees_all_equal(outputs, fn(params, X))
    chex.assert_trees_all_close(found["w:data"], expected, rtol=1e-5)
    chex.assert_trees_all_close(
        found["w"], jnp.einsum("olabi,lij->olabj", expected, params["w"]), rtol=1e-5, atol=1e-6
    )


NAMES = ["attention", "attention:scores", "mlp", "before tanh", "mlp:block", "mlp:end", "out:data"]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_model_by_hand(name):
    def loss(values):
        return jnp.sum(jnp.sin(values) * jnp.cos(jnp.arange(values.size)).reshape(values.shape))

    fn = tapped(trace(jax.checkpoint(layer), LAYER, X), [name])
    kept = "mlp" if name == "before tanh" else name
    found = jax.jit(jax.grad(lambda p: loss(fn(p, X)[1][name])))(LAYER)
    expected = jax.jit(jax.grad(lambda p: loss(by_hand(p, p)[1][kept][0])))(LAYER)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_stream_in_half_precision():
    """The block's input is what its skip and its branch are both cast from."""

    def fn(p, x):
        half = (x.astype(jnp.bfloat16) @ p["a"].astype(jnp.bfloat16)).astype(jnp.bfloat16)
        return half.astype(jnp.float32) + jnp.tanh(half.astype(jnp.float32) @ p["b"])

    params = {"a": LAYER["out"], "b": LAYER["mlp"]}
    _, found = tapped(trace(fn, params, X), ["a", "b:block", "b:data"])(params, X)
    assert found["b:block"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(found["b:block"], found["a"])
    chex.assert_trees_all_equal(found["b:data"], found["a"].astype(jnp.float32))


def test_of_a_loss_under_every_transform():
    fn = tapped(trace(layer, LAYER, X), ["attention"])

    def loss(p, x):
        outputs, values = fn(p, x)
        return outputs.sum() + jnp.square(values["attention"]).sum()

    def by_itself(p, x):
        weights = []
        outputs = layer(p, x, lambda n, v: weights.append(v) or v if n == "attention" else v)
        return outputs.sum() + jnp.square(weights[0]).sum()

    # Of one example each: a shape that the graph was not traced at.
    found, expected = (
        jax.jit(jax.vmap(jax.grad(each), (None, 0)))(LAYER, X[:, None])
        for each in (loss, by_itself)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if entry[2] else pytest.mark.slow)
        for name, entry in PROGRAMS.items()
    ],
)
def test_outputs_are_the_functions_to_the_bit(name):
    make, *_ = PROGRAMS[name]
    fn, params, x = make()
    graph = trace(fn, params, x)
    every = taps(graph)

    def both(params, x):
        return fn(params, x), tapped(graph, ())(params, x), tapped(graph, every)(params, x)

    whole, (nothing, none), (outputs, values) = jax.jit(both)(
        random_like(params), random_like(x, seed=1)
    )
    assert none == {}
    chex.assert_trees_all_equal(nothing, whole)
    chex.assert_trees_all_equal(outputs, whole)
    for tap in every.values():
        assert (values[tap.name].shape, values[tap.name].dtype) == (tap.shape, tap.dtype)


def test_a_function_with_a_derivative_of_its_own_keeps_it_where_nothing_inside_is_tapped():
    @jax.custom_jvp
    def twice(x):
        return x @ W + checkpoint_name(x, "inside")

    W = LAYER["mlp"]
    twice.defjvp(lambda primals, tangents: (twice(*primals), 100.0 * tangents[0]))

    def fn(p, x):
        return twice(x @ p)

    graph = trace(fn, W, X)
    chex.assert_trees_all_close(
        jax.grad(lambda p: tapped(graph, [])(p, X)[0].sum())(W),
        jax.grad(lambda p: fn(p, X).sum())(W),
    )


def masked(p, x):
    """Multi-head, with everything between the products that attentions have."""
    query, key, value = (jnp.einsum("blw,whd->blhd", x, p["self"][n]) for n in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(jnp.float32(2))
    scores = jnp.tanh(scores) + p["bias"]
    scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), scores.astype(jnp.bfloat16), -1e9)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
    kept = jax.random.bernoulli(KEY, 0.9, (5, 5))
    weights = checkpoint_name(jnp.where(kept, weights / 0.9, 0.0), "dropped")
    weights = jnp.einsum("bhqk,h->bhqk", weights, p["gate"])
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def plain_softmax(p, x):
    scores = jnp.exp((x @ p["kernel"]) @ x.swapaxes(1, 2))
    return (scores / scores.sum(-1, keepdims=True)) @ x


def where_softmax(p, x):
    seen = jnp.arange(5) < 3
    return jax.nn.softmax((x @ p["a"]["q"]) @ (x @ p["a"]["k"]).mT, where=seen) @ x


def learned_queries(p, x):
    scores = (p["queries"] @ p["pool"]["q"]) @ (x @ p["pool"]["k"]).mT
    return jax.nn.softmax(scores) @ (x @ p["pool"]["v"])


def library(p, x):
    query, key, value = ((x @ p["layer"]["fused"])[..., None, i * 4 : i * 4 + 4] for i in range(3))
    return jax.nn.dot_product_attention(query, key, value, is_causal=True)


ATTENTIONS = {
    "self": (
        masked,
        {
            "self": {n: normal(2, 4, 2, 2) for n in "qkv"},
            "bias": normal(3, 2, 5, 5),
            "gate": normal(4, 2),
        },
    ),
    "attention": (plain_softmax, {"kernel": normal(0, 4, 4)}),
    "a": (where_softmax, {"a": {n: normal(1, 4, 4) for n in "qk"}}),
    "pool": (learned_queries, {"pool": {n: normal(1, 4, 4) for n in "qkv"}, "queries": X[0]}),
    "layer": (library, {"layer": {"fused": normal(5, 4, 12)}}),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attentions(name):
    fn, params = ATTENTIONS[name]
    graph = trace(fn, params, X)
    assert match(graph, "*", "attention") == (name,)
    _, found = jax.jit(tapped(graph, [f"{name}:scores", name]))(params, X)
    scores, weights = found[f"{name}:scores"], found[name]
    assert weights.shape[-2:] == (5, 5)
    where = jnp.arange(5) < 3 if name == "a" else None
    chex.assert_trees_all_close(weights, jax.nn.softmax(scores, where=where), rtol=1e-6)
    chex.assert_trees_all_close(weights.sum(-1), jnp.ones(weights.shape[:-1]), rtol=1e-6)


def classifier(p, x):
    return jax.nn.softmax(x @ p["kernel"]) @ p["kernel"].T


def mixture(p, x):
    gates = jax.nn.softmax(x @ p["kernel"])
    return jnp.einsum("ble,blew->blw", gates, jnp.einsum("blw,ewv->blev", x, p["experts"]))


def similarity(p, x):
    x = x @ p["kernel"]
    return -jax.nn.log_softmax(x @ x.mT).mean() + jax.nn.softmax(x @ x.mT).max()


@pytest.mark.parametrize("fn", [classifier, mixture, similarity])
def test_other_softmaxes_are_no_attentions(fn):
    graph = trace(fn, {"kernel": normal(0, 4, 4), "experts": normal(1, 4, 4, 4)}, X)
    assert {tap.kind for tap in taps(graph).values()} == {"data", "result"}


def test_repeated_names():
    def fn(p, x):
        for _ in range(2):
            x = checkpoint_name(layer(p["self"], x), "hidden")
        return x

    graph = trace(fn, {"self": LAYER}, X)
    assert match(graph, "self*", "attention") == ("self", "self#2")
    assert match(graph, "self*:scores") == match(graph, "self*", "scores")
    assert match(graph, "self", "scores") == ("self:scores",)
    assert match(graph, "hidden*") == ("hidden", "hidden#2")
    assert match(graph, "*content*", "block") == ("self/content:block", "self/content:block#2")


def test_a_pruned_function_keeps_its_names():
    fn, params = ATTENTIONS["self"]
    params = {**params, "kernel": normal(7, 2, 2, 6), "last": normal(8, 6, 3)}

    def both(p, x):
        x = checkpoint_name(jnp.einsum("blhd,hdw->blw", fn(p, x), p["kernel"]), "hidden")
        return jax.nn.relu(x) @ p["last"]

    graph = trace(both, params, X)
    plan = make_plan(graph, {group.name: range(group.size - 1) for group in groups(graph)})
    small = shrink(plan, params)
    small_graph = trace(replay(graph, plan), small, X)
    assert set(taps(small_graph)) == set(taps(graph))
    names = ["hidden", "self"]
    _, found = jax.jit(tapped(small_graph, names))(small, X)
    _, full = jax.jit(tapped(graph, names))(mask(plan, params), X)
    assert found["hidden"].shape == (2, 5, 5)
    chex.assert_trees_all_close(found["hidden"], full["hidden"][..., :5], rtol=1e-5)
    chex.assert_trees_all_close(found["self"], full["self"][:, :1], rtol=1e-5)


def looped(p, x):
    go_on = lambda carry: carry[0] < 3  # noqa: E731
    once = lambda carry: (carry[0] + 1, checkpoint_name(carry[1] @ p["w"], "inside"))  # noqa: E731
    return jax.lax.while_loop(go_on, once, (0, x))[1]


def branched(p, x):
    return jax.lax.cond(x.sum() > 0, lambda: checkpoint_name(x @ p["w"], "inside"), lambda: x)


def sharded(p, x):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    once = lambda x: checkpoint_name(x @ p["w"], "inside")  # noqa: E731
    return jax.shard_map(once, mesh=mesh, in_specs=spec, out_specs=spec)(x)


CLOSED = [looped, branched, sharded]


@pytest.mark.parametrize(
    ("fn", "name"),
    [(looped, "w"), (looped, "w:data"), (branched, "w"), *((fn, "inside") for fn in CLOSED)],
)
def test_what_is_inside_loops_and_branches_is_refused(fn, name):
    params = {"w": LAYER["mlp"], "v": LAYER["out"]}
    graph = trace(lambda p, x: fn(p, x) @ p["v"], params, X)
    assert list(taps(graph)) == ["v:data", "v"]
    with pytest.raises(ValueError, match=rf"'{name}' is inside a \w+ at test_taps.py.*return it"):
        tapped(graph, [name])
    outputs, found = tapped(graph, ["v:data"])(params, X)
    chex.assert_trees_all_close(outputs, found["v:data"] @ params["v"])


def test_refusals():
    graph = trace(layer, LAYER, X)
    with pytest.raises(ValueError, match="no tap is named 'querry'; nearest: query"):
        tapped(graph, ["querry"])
    with pytest.raises(ValueError, match=r"no tap of kind 'scores' matches 'atention'.*attention"):
        match(graph, "atention", "scores")
    with pytest.raises(ValueError, match="kind: unknown name 'score'; did you mean 'scores'"):
        match(graph, "*", "score")
    with pytest.raises(ValueError, match="params lack 'mlp'"):
        tapped(graph, ["mlp"])({name: w for name, w in LAYER.items() if name != "mlp"}, X)


def test_loss():
    """A training loss is a function like any other."""
    graph = trace(lambda p, x: loss_of(layer(p, x)), LAYER, X)
    loss, found = tapped(graph, ["mlp:end"])(LAYER, X)
    chex.assert_trees_all_close(found["mlp:end"], layer(LAYER, X), rtol=1e-6)
    chex.assert_trees_all_close(loss, loss_of(layer(LAYER, X)), rtol=1e-6)

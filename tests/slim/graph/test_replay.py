"""Replay beyond the traced function: other functions, shapes, transforms, frameworks."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from slim.graph import cost, frozen_groups, groups, make_plan, mask, replay, shrink, trace
from tests.slim.graph.exactness import assert_close, random_like, random_plan

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)


class Net(nn.Module):
    """A convolutional network with everything that a training step has."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(8, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        x = nn.Dense(12, name="hidden")(x.mean((1, 2)))
        return nn.Dense(3, name="head")(nn.relu(x))


def net():
    module = Net()
    variables = jax.eval_shape(lambda k: module.init(k, jnp.zeros(IMAGES.shape), False), KEY)
    return module, random_like(variables), random_like(IMAGES, seed=1)


KEY = jax.random.key(0)
LINEAR = {
    "a": jnp.linspace(-1, 1, 30).reshape(3, 10),
    "b": jnp.linspace(1, -1, 20).reshape(10, 2),
}


def evaluate(module):
    return lambda v, x: module.apply(v, x, train=False)


def test_the_training_loss_follows_the_plan_of_the_evaluation():
    """Dropout and new batch statistics: a function that the plan was not made from."""
    module, variables, images = net()

    def loss(variables, x, key):
        rngs = {"dropout": key}
        logits, new = module.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.square(logits).mean(), new

    plan = random_plan(trace(evaluate(module), variables, images))
    small_loss = replay(trace(loss, variables, images, KEY), plan)
    small = shrink(plan, variables)
    step = jax.jit(jax.value_and_grad(small_loss, has_aux=True))
    (value, new), grads = step(small, images, KEY)
    assert np.isfinite(value)
    chex.assert_trees_all_equal_shapes(grads, small)
    chex.assert_trees_all_equal_shapes(new["batch_stats"], small["batch_stats"])

    # Without dropout it is the masked function, new statistics included.
    def without(variables, x):
        return Net().apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": KEY})

    with nn.intercept_methods(_no_dropout):
        want = jax.jit(without)(mask(plan, variables), images)
        got = jax.jit(replay(trace(without, variables, images), plan))(small, images)
    assert_close(got, shrink(plan, want), 1e-5)


def _no_dropout(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout):
        return args[0]
    return call(*args, **kwargs)


def test_batch_statistics_do_not_freeze_their_parameters():
    module, variables, images = net()

    def train(variables, x):
        rngs = {"dropout": KEY}
        return module.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)

    sizes = [group.size for group in groups(trace(train, variables, images))]
    assert sizes == [group.size for group in groups(trace(evaluate(module), variables, images))]


@pytest.mark.parametrize(("batch", "size"), [(1, 8), (5, 12)])
def test_other_batch_and_image_sizes(batch, size):
    """A mean over positions divides by how many there now are."""
    module, variables, images = net()
    graph = trace(evaluate(module), variables, images)
    plan = random_plan(graph)
    x = random_like(jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32), seed=2)
    got = jax.jit(replay(graph, plan))(shrink(plan, variables), x)
    assert_close(got, jax.jit(evaluate(module))(mask(plan, variables), x), 1e-5)


@pytest.mark.parametrize(("batch", "length"), [(1, 4), (3, 9)])
def test_other_sequence_lengths(batch, length):
    """A causal decoder with learned positions: its mask and its table follow the length."""
    kernels = dict.fromkeys("qkv", (8, 2, 4)) | {"o": (2, 4, 8), "up": (8, 16), "down": (16, 8)}
    shapes = kernels | {"tokens": (12, 8), "positions": (12, 8)}
    params = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in shapes.items()}
    params = random_like(params)

    def fn(p, tokens):
        x = p["tokens"][tokens] + p["positions"][: tokens.shape[1]]
        q, k, v = (jnp.einsum("bse,ehd->bshd", x, p[name]) for name in "qkv")
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + jnp.einsum("bshd,hde->bse", mixed, p["o"])
        x = x + jax.nn.gelu(x @ p["up"]) @ p["down"]
        return x.mean(1) @ p["tokens"].T

    tokens = jnp.arange(12).reshape(2, 6)
    graph = trace(fn, params, tokens)
    plan = random_plan(graph)
    assert sorted(group.size for group in groups(graph)) == [2, 4, 4, 8, 16]
    # Nothing that only longer sequences need is offered.
    (rest,) = (group for group in frozen_groups(graph) if group.name == "positions:0.1")
    assert rest.frozen == ("the function does not use it",)
    tokens = jnp.arange(batch * length).reshape(batch, length) % 12
    got = jax.jit(replay(graph, plan))(shrink(plan, params), tokens)
    assert_close(got, jax.jit(fn)(mask(plan, params), tokens), 1e-5)


def test_under_vmap_scan_remat_and_hessian_vector_products():
    params = {
        "a": jnp.linspace(-1, 1, 30).reshape(3, 10),
        "b": jnp.linspace(1, -1, 20).reshape(10, 2),
    }

    def fn(p, x):
        return jnp.tanh(jax.nn.silu(x @ p["a"])) @ p["b"]

    x = jnp.linspace(0, 1, 12).reshape(4, 3)
    graph = trace(fn, params, x[0])
    plan = random_plan(graph)
    small, small_fn = shrink(plan, params), jax.checkpoint(replay(graph, plan))
    want = fn(mask(plan, params), x)
    over_rows = jax.vmap(small_fn, in_axes=(None, 0))(small, x)
    scanned = jax.lax.scan(lambda _, row: (None, small_fn(small, row)), None, x)[1]
    assert_close([over_rows, scanned], [want, want], 1e-5)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), small)
    chex.assert_shape(jax.vmap(small_fn, in_axes=(0, None))(stacked, x[0]), (2, 2))

    def curvature(f, p):
        return jax.jit(lambda p: jax.jvp(jax.grad(lambda p: f(p, x[0]).sum()), (p,), (p,))[1])(p)

    assert_close(curvature(small_fn, small), shrink(plan, curvature(fn, mask(plan, params))), 1e-5)


def test_under_shard_map():
    params = {
        "a": jnp.linspace(-1, 1, 30).reshape(3, 10),
        "b": jnp.linspace(1, -1, 20).reshape(10, 2),
    }

    def fn(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    x = jnp.linspace(0, 1, 48).reshape(16, 3)
    graph = trace(fn, params, x)
    plan = random_plan(graph)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, everywhere = jax.P("data"), jax.P()
    sharded = jax.shard_map(
        replay(graph, plan), mesh=mesh, in_specs=(everywhere, rows), out_specs=rows
    )
    assert_close(jax.jit(sharded)(shrink(plan, params), x), fn(mask(plan, params), x), 1e-5)


def test_keyword_data_flags_and_dtypes():
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}

    def fn(p, x, *, scale, negate=False):
        y = jax.nn.relu(x @ p["a"]) @ p["b"] * scale
        return -y if negate else y

    x = jnp.ones((4, 3))
    graph = trace(fn, params, x, scale=jnp.ones(()))
    plan = make_plan(graph, {"a:1": [0, 5]})
    small_fn, small = replay(graph, plan), shrink(plan, params)
    chex.assert_trees_all_close(small_fn(small, x, scale=jnp.ones(())), jnp.full((4, 2), 6.0))
    got = small_fn(small, x, scale=jnp.full((), 2.0), negate=True)
    chex.assert_trees_all_close(got, jnp.full((4, 2), -12.0))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (small, x, jnp.ones(())))
    assert small_fn(half[0], half[1], scale=half[2]).dtype == jnp.bfloat16


def test_linen_nnx_and_dicts_have_the_same_groups():
    """One network, three frameworks."""

    def plain(p, x):
        x = jax.lax.conv_general_dilated(
            x, p["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + p["conv"]["bias"]).mean((1, 2))
        x = jax.nn.relu(x @ p["hidden"]["kernel"] + p["hidden"]["bias"])
        return x @ p["head"]["kernel"] + p["head"]["bias"]

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3), name="conv")(x)).mean((1, 2))
            return nn.Dense(3, name="head")(nn.relu(nn.Dense(12, name="hidden")(x)))

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.hidden = nnx.Linear(8, 12, rngs=rngs)
            self.head = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.conv(x)).mean((1, 2))
            return self.head(nnx.relu(self.hidden(x)))

    linen = Linen()
    variables = jax.eval_shape(linen.init, KEY, IMAGES)
    structure, state = nnx.split(Nnx(nnx.Rngs(0)))
    graphs = [
        trace(plain, variables["params"], IMAGES),
        trace(lambda p, x: linen.apply({"params": p}, x), variables["params"], IMAGES),
        trace(lambda s, x: nnx.merge(structure, s)(x), state, IMAGES),
    ]
    described = [
        [(g.name, g.size, [(m.path, m.dim) for m in g.members]) for g in groups(graph)]
        for graph in graphs
    ]
    assert described[0] == described[1] == described[2]
    assert [name for name, _, _ in described[0]] == ["conv/kernel:3", "hidden/kernel:1"]

    plan = random_plan(graphs[2])
    state = random_like(state)
    x = random_like(IMAGES, seed=1)
    want = jax.jit(graphs[2].fn)(mask(plan, state), x)
    assert_close(jax.jit(replay(graphs[2], plan))(shrink(plan, state), x), want, 1e-5)


@pytest.mark.parametrize(
    "tx", [optax.sgd(1e-2, momentum=0.9), optax.adam(1e-2)], ids=["sgd", "adam"]
)
def test_training_goes_on_after_the_cut(tx):
    """The optimizer's state is cut by the plan; a masked step and a small step agree."""
    module, variables, images = net()
    variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    graph = trace(evaluate(module), variables, images)
    plan = random_plan(graph)

    def step(grads, state, variables):
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction
            updates, state = tx.update(grads, state, variables)
        return optax.apply_updates(variables, updates), state

    grads = jax.tree.map(lambda p: 0.1 + 0 * p, variables)
    _, state = step(grads, tx.init(variables), variables)

    small, small_state = shrink(plan, variables), shrink(plan, state)
    chex.assert_trees_all_equal_shapes(small_state, tx.init(small))

    def loss(fn, variables):
        return jnp.square(fn(variables, images)).mean()

    full_grads = jax.jit(jax.grad(lambda v: loss(evaluate(module), v)))(mask(plan, variables))
    small_grads = jax.jit(jax.grad(lambda v: loss(replay(graph, plan), v)))(small)
    trained = step(small_grads, small_state, small)
    assert_close(trained, shrink(plan, step(full_grads, state, mask(plan, variables))), 1e-4)


def test_auxiliary_outputs_come_out_small():
    """What a model sows: it freezes the graph it is an output of, and follows another's plan."""

    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            hidden = nn.relu(nn.Dense(8, name="up")(x))
            self.sow("intermediates", "hidden", hidden)
            return nn.Dense(2, name="down")(hidden)

    x = jnp.ones((4, 3))
    variables = random_like({"params": jax.eval_shape(Sowing().init, KEY, x)["params"]})
    plain = trace(Sowing().apply, variables, x)
    sown = trace(lambda v, x: Sowing().apply(v, x, mutable="intermediates"), variables, x)
    assert [group.name for group in groups(plain)] == ["params/up/kernel:1"]
    assert not groups(sown)
    (reason,) = next(g.frozen for g in frozen_groups(sown) if g.name == "params/up/kernel:1")
    assert reason == "output 1/intermediates/hidden/0"
    plan = make_plan(plain, {"params/up/kernel:1": [1, 4, 6]})
    logits, aux = jax.jit(replay(sown, plan))(shrink(plan, variables), x)
    want, full = jax.jit(sown.fn)(mask(plan, variables), x)
    assert_close(logits, want, 1e-5)
    hidden = full["intermediates"]["hidden"][0][:, jnp.array([1, 4, 6])]
    assert_close(aux["intermediates"]["hidden"][0], hidden, 1e-5)


def test_a_function_that_exposes_what_is_cut_gives_it_small():
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
    x = jnp.ones((4, 3))
    plan = make_plan(trace(lambda p, x: (x @ p["a"]) @ p["b"], params, x), {"a:1": [1, 2, 3]})
    features = replay(trace(lambda p, x: x @ p["a"], params, x), plan)
    chex.assert_shape(features(shrink(plan, params), x), (4, 3))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"], "cuts 'a:1', .* reduce_max at test_re"),
        (lambda p, x: (x @ p["a"] + jnp.arange(8.0) @ p["c"]) @ p["b"], "differently"),
        (lambda p, x: (x @ p["a"]).reshape(-1, 2, 4).swapaxes(1, 2).sum(1), "index by index"),
    ],
)
def test_a_function_that_the_plan_does_not_fit_is_refused(other, message):
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2)), "c": jnp.ones((8, 8))}
    x = jnp.ones((4, 3))

    def fn(p, x):
        return (x @ p["a"]) @ p["b"] + (jnp.ones((4, 8)) @ p["c"] * jnp.ones(8)).sum(-1)[:, None]

    plan = make_plan(trace(fn, params, x), {"a:1": [1, 2, 7], "c:1": [0, 1]})
    with pytest.raises(ValueError, match=message):
        replay(trace(other, params, x), plan)


def test_an_nnx_training_step_with_its_whole_state():
    """Random counts and keys are leaves of the state too; batch statistics come back small."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))

    structure, state = nnx.split(Model(nnx.Rngs(0)))

    def run(state, x, train):
        model = nnx.merge(structure, state)
        model.train() if train else model.eval()
        return model(x), nnx.state(model)

    x = random_like(IMAGES)
    graph = trace(run, state, x, False)
    plan = random_plan(graph)
    assert [group.name for group in groups(graph)] == ["conv/kernel:3"]
    small = shrink(plan, state)
    logits, new = jax.jit(replay(graph, plan), static_argnums=2)(small, x, True)
    chex.assert_shape(logits, (4, 3))
    chex.assert_trees_all_equal_shapes(new, small)


def test_the_gradient_of_a_function_is_replayed_too():
    """Convolution gradients, pooling gradients: a graph of the derivative follows the plan."""
    params = {
        "conv": random_like(jax.ShapeDtypeStruct((3, 3, 3, 8), jnp.float32)),
        "out": random_like(jax.ShapeDtypeStruct((8, 2), jnp.float32)),
    }

    def loss(p, x):
        x = jax.lax.conv_general_dilated(
            x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(jnp.tanh(x), -jnp.inf, jax.lax.max, window, window, "VALID")
        return jnp.square(x.sum((1, 2)) @ p["out"])

    x = random_like(IMAGES, seed=1)
    plan = random_plan(trace(loss, params, x))
    gradient = jax.grad(lambda p, x: loss(p, x).sum())
    got = jax.jit(replay(trace(gradient, params, x), plan))(shrink(plan, params), x)
    assert_close(got, shrink(plan, jax.jit(gradient)(mask(plan, params), x)), 1e-5)


def test_the_cost_after_a_plan_is_the_small_functions():
    params = {"a": jax.ShapeDtypeStruct((3, 8), "float32")}
    params |= {"b": jax.ShapeDtypeStruct((8, 2), "float32")}
    x = jax.ShapeDtypeStruct((4, 3), "float32")
    graph = trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, x)
    plan = make_plan(graph, {"a:1": range(6)})
    after = cost(trace(replay(graph, plan), shrink(plan, params), x))
    assert (cost(graph).macs, after.macs) == (4 * 8 * 5, 4 * 6 * 5)
    assert [row.name for row in after.rows[:2]] == ["a", "b"]

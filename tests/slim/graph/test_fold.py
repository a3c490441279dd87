"""The oracle of folding: the folded function is the original, in single and double precision."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slim import models, paths
from slim.graph import Folding, find_folding, fold_params, folded, sites, trace
from slim.models.layers import BatchNorm
from slim.quant import Policy, Rule, assign, calibrate, convert
from tests.slim.graph.exactness import assert_close, random_like

KEY = jax.random.key(0)
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def normal(seed, *shape):
    """NumPy's, so that preparing it compiles nothing."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv(x, kernel, groups=1, **options):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        **options,
    )


def norm(x, p):
    """Batch normalization in evaluation, as one writes it."""
    return (x - p["mean"]) / jnp.sqrt(p["var"] + 1e-3) * p["scale"] + p["beta"]


def norm_params(seed, *shape):
    names = ("mean", "scale", "beta")
    params = {name: normal(seed + i, *shape) for i, name in enumerate(names)}
    return params | {"var": 0.1 + normal(seed + 3, *shape) ** 2}


def assert_folds(fn, params, *inputs, expected, tolerance=1e-5):
    """The folded function's output is the original's, its sites keep their names."""
    graph = trace(fn, params, *inputs)
    folding = find_folding(graph)
    assert folding == Folding(tuple(expected))
    small = fold_params(graph, folding, params)
    small_fn = folded(graph, folding)
    assert_close(jax.jit(small_fn)(small, *inputs), jax.jit(fn)(params, *inputs), tolerance)
    again = trace(small_fn, small, *inputs)
    assert {site.name for site in sites(again)} == {site.name for site in sites(graph)}
    assert find_folding(again) == Folding(())
    return small


# What compiles fast; the slow run has them all.
EVERY_RUN = ("mlp", "resnet8")


def evaluation(name, dtype=jnp.float32):
    module = models.create(name, num_classes=10, dtype=dtype)
    shapes = jax.eval_shape(lambda: module.init(KEY, jnp.zeros(IMAGES.shape), train=False))
    return lambda v, x: module.apply(v, x, train=False), shapes


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in EVERY_RUN else pytest.mark.slow)
        for n in models.IMAGE_MODELS
    ],
)
def test_every_model_equals_its_folded_self(name):
    fn, shapes = evaluation(name)
    variables, images = random_like(shapes), random_like(IMAGES, seed=1)
    kernels = {
        f"{prefix.replace('norm', 'conv')}/kernel"
        for path in paths.flatten(shapes.get("batch_stats", {}))
        for prefix in [f"params/{path.rpartition('/')[0]}"]
    }
    order = [site.name for site in sites(trace(fn, shapes, IMAGES)) if site.name in kernels]
    assert len(order) == len(kernels)
    small = assert_folds(fn, variables, images, expected=order)
    assert "batch_stats" not in small
    left = [path for path in paths.flatten(small) if path.endswith("/scale")]
    assert all("norm" not in path for path in left) or name.startswith("vit")
    jax.clear_caches()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_no_batch_norm_is_left(name):
    fn, shapes = evaluation(name)
    graph = trace(fn, shapes, IMAGES)
    small = jax.eval_shape(lambda v: fold_params(graph, find_folding(graph), v), shapes)
    assert set(small) == {"params"}
    assert {path.rpartition("/")[2] for path in paths.flatten(small)} == {"kernel", "bias"}
    kernels = [site.name for site in sites(graph)]
    assert len(find_folding(graph).sites) == len(kernels) - 1  # all but the head
    assert len(paths.flatten(small)) == 2 * len(kernels)


def test_in_double_precision(monkeypatch):
    _, shapes = evaluation("resnet8")
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        module = models.create("resnet8", num_classes=10, dtype=jnp.float64)
        fn = lambda v, x: module.apply(v, x, train=False)  # noqa: E731
        variables, images = jax.tree.map(
            np.float64, (random_like(shapes), random_like(IMAGES, seed=1))
        )
        expected = [s.name for s in sites(trace(fn, variables, images))][:-1]
        assert_folds(fn, variables, images, expected=expected, tolerance=1e-12)


def test_in_half_precision():
    """Computed in bfloat16 and normalized in float32, folded it is as near to the exact result."""

    def fn(p, x, dtype=jnp.bfloat16):
        y = conv(x.astype(dtype), p["w"].astype(dtype))
        return norm(y.astype(jnp.float32), p).astype(dtype)

    params, x = {"w": normal(0, 3, 3, 4, 6)} | norm_params(1, 6), normal(9, 2, 5, 5, 4)
    graph = trace(fn, params, x)
    folding = find_folding(graph)
    small = fold_params(graph, folding, params)
    assert small["w"].dtype == small["bias"].dtype == jnp.float32
    exact, found = fn(params, x, jnp.float32), folded(graph, folding)(small, x)
    assert found.dtype == jnp.bfloat16
    errors = [float(jnp.abs(y.astype(jnp.float32) - exact).mean()) for y in (found, fn(params, x))]
    assert errors[0] < 1.2 * errors[1]


PROGRAMS = {
    "dense": (lambda p, x: norm(x @ p["w"], p), (5, 4), (3, 5)),
    "dense of one feature": (lambda p, x: norm(x @ p["w"], p), (5, 1), (3, 5)),
    "heads": (lambda p, x: norm(jnp.einsum("bi,ihd->bhd", x, p["w"]), p), (5, 2, 3), (4, 5)),
    "experts": (
        lambda p, x: norm(jnp.einsum("ebi,eio->ebo", x, p["w"]), p),
        (3, 5, 4),
        (3, 2, 5),
    ),
    "conv": (lambda p, x: norm(conv(x, p["w"]), p), (3, 3, 4, 6), (2, 5, 5, 4)),
    "grouped": (lambda p, x: norm(conv(x, p["w"], 2), p), (3, 3, 2, 6), (2, 5, 5, 4)),
    "depthwise": (lambda p, x: norm(conv(x, p["w"], 4), p), (3, 3, 1, 8), (2, 5, 5, 4)),
    "transposed and cast": (
        lambda p, x: norm(x @ p["w"].reshape(6, 5)[::-1].astype(jnp.float32).T, p),
        (3, 2, 5),
        (3, 5),
    ),
    "in a call": (
        lambda p, x: jax.jit(lambda p, x: jnp.tanh(jax.jit(norm)(x @ p["w"], p)))(p, x),
        (5, 4),
        (3, 5),
    ),
    "in a remat": (
        jax.checkpoint(lambda p, x: jnp.tanh(norm(x @ p["w"], p))),
        (5, 4),
        (3, 5),
    ),
    "from the left": (
        lambda p, x: 2.0 - p["scale"] * -(p["mean"] - x @ p["w"]) / p["var"],
        (5, 4),
        (3, 5),
    ),
    "before a call that takes all parameters": (
        lambda p, x: jax.jit(lambda p, x: jnp.tanh(x) @ p["w2"])(p, norm(x @ p["w"], p)),
        (5, 4),
        (3, 5),
    ),
    "before other things": (
        lambda p, x: jax.nn.relu(norm(x @ p["w"], p)) @ p["w2"] + 3.0,
        (5, 4),
        (3, 5),
    ),
}
FEATURES = {"heads": (2, 3), "experts": (3, 1, 4), "transposed and cast": (6,)}


def params_of(name):
    fn, kernel, shape = PROGRAMS[name]
    features = FEATURES.get(name, kernel[-1:])
    params = {"w": normal(0, *kernel), "w2": normal(1, 4, 2)} | norm_params(2, *features)
    return fn, params, normal(9, *shape)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    fn, params, x = params_of(name)
    small = assert_folds(fn, params, x, expected=["w"])
    assert small["w"].shape == params["w"].shape
    assert not {"mean", "var", "scale"} & set(small)


def test_left_operand():
    params = {"w": normal(0, 4, 5), "gain": normal(1, 4, 1), "bias": normal(2, 4, 1)}
    small = assert_folds(
        lambda p, x: jnp.einsum("oi,bi->ob", p["w"], x) * p["gain"] + p["bias"],
        params,
        normal(3, 3, 5),
        expected=["w"],
    )
    assert small["bias"].shape == (4,)


def test_the_formula():
    fn, params, x = params_of("conv")
    graph = trace(fn, params, x)
    small = jax.jit(lambda p: fold_params(graph, Folding(("w",)), p))(params)
    a = params["scale"] / jnp.sqrt(params["var"] + 1e-3)
    b = params["beta"] - a * params["mean"]
    expected = {"w": params["w"] * a, "bias": b, "w2": params["w2"]}
    chex.assert_trees_all_close(small, expected, rtol=1e-5, atol=1e-6)


def residual_before_the_norm(p, x):
    y = x @ p["w"]
    return norm(y, p) + y


def norm_before(p, x):
    return norm(x, p) @ p["w"]


def used_twice(p, x):
    return norm(x @ p["w"], p) @ p["w"]


def used_elsewhere(p, x):
    return norm(x @ p["w"], p) + p["w"].sum()


def one_bias(p, x):
    return x @ p["w"] + p["beta"]


def a_number(p, x):
    return (x @ p["w"] + p["beta"]) * 0.5


def by_row(p, x):
    return x @ p["w"] * p["mean"][:, None]


def of_data(p, x):
    y = x @ p["w"]
    return (y - x.mean(0)) * p["scale"]


def by_its_kernel(p, x):
    return x @ p["w"] / jnp.linalg.norm(p["w"], axis=0)


def not_affine(p, x):
    return p["scale"] / (x @ p["w"])


def in_a_scan(p, x):
    return jax.lax.scan(lambda x, _: (norm(x @ p["w"], p), None), x, None, length=2)[0]


def two_parameters(p, x):
    return x + (p["w"] @ p["w2"]) * p["scale"]


UNFOLDED = [
    residual_before_the_norm,
    norm_before,
    used_twice,
    used_elsewhere,
    one_bias,
    a_number,
    by_row,
    of_data,
    by_its_kernel,
    not_affine,
    in_a_scan,
    two_parameters,
]


@pytest.mark.parametrize("fn", UNFOLDED)
def test_what_is_not_folded(fn):
    params = {"w": normal(0, 4, 4), "w2": normal(1, 4, 4)} | norm_params(2, 4)
    small = assert_folds(fn, params, normal(9, 4, 4), expected=())
    chex.assert_trees_all_equal(small, params)


def test_parameters_that_something_else_reads_stay():
    params = {"w": normal(0, 5, 4)} | norm_params(1, 4)
    small = assert_folds(
        lambda p, x: (norm(x @ p["w"], p), {"mean": p["mean"]}),
        params,
        normal(9, 3, 5),
        expected=["w"],
    )
    assert set(small) == {"w", "mean", "bias"}


def test_names_of_biases():
    """A bias whose place is free again is called bias; beside others it is not."""

    def fn(p, x):
        for layer in p["layers"][:2]:
            x = jnp.tanh(norm(x @ layer["w"] + layer["bias"], layer))
        last = p["layers"][2]
        x = norm(x @ last["w"], last) + jnp.tanh(norm(x @ last["w2"], last) + last["bias"])
        return x * last["bias"]

    layers = [{"w": normal(i, 4, 4), "bias": normal(i + 9, 4)} for i in range(3)]
    layers = [each | norm_params(3 * i, 4) for i, each in enumerate(layers)]
    layers[2]["w2"] = normal(30, 4, 4)
    names = [f"layers/{name}" for name in ("0/w", "1/w", "2/w", "2/w2")]
    small = assert_folds(fn, {"layers": layers}, normal(40, 3, 4), expected=names)
    assert set(small["layers"]["0"]) == set(small["layers"]["1"]) == {"w", "bias"}
    assert set(small["layers"]["2"]) == {"w", "w2", "bias", "folded_bias", "folded_bias2"}


def test_a_large_mean_costs_no_digits():
    """As the difference of its values at 1 and 0 the chain's slope would lose four digits."""
    params = {"w": normal(0, 8, 4)} | norm_params(1, 4)
    params |= {"scale": 1e-3 * params["scale"], "beta": 10 + params["beta"]}
    small = assert_folds(lambda p, x: norm(x @ p["w"], p), params, normal(9, 3, 8), expected=["w"])
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = exact["w"] * exact["scale"] / np.sqrt(exact["var"] + 1e-3)
    np.testing.assert_allclose(small["w"], expected, rtol=1e-6)


class Net(nnx.Module):
    def __init__(self, rngs):
        first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.convs = nnx.List([first, nnx.Conv(4, 4, (3, 3), use_bias=False, rngs=rngs)])
        norms = [nnx.BatchNorm(4, use_running_average=True, rngs=rngs) for _ in range(2)]
        self.norms = nnx.List(norms)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.head(x.mean((1, 2)))


def test_an_nnx_model():
    definition, state = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))
    state = random_like(state)
    small = assert_folds(
        lambda state, x: nnx.merge(definition, state)(x),
        state,
        normal(0, 2, 5, 5, 3),
        expected=["convs/0/kernel", "convs/1/kernel"],
    )
    assert set(small) == {"convs", "head"}
    assert set(small["convs"]["1"]) == {"kernel", "bias"}


def test_other_batch_sizes_and_compiled_once():
    fn, params, x = params_of("conv")
    graph = trace(fn, params, x)
    folding = find_folding(graph)
    small, small_fn = fold_params(graph, folding, params), folded(graph, folding)
    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(small_fn, n=2))
    for batch in (x, x, x[:1], x[:1]):
        expected = jax.jit(fn)(params, batch)
        chex.assert_trees_all_close(once(small, batch), expected, rtol=1e-4, atol=1e-5)


def test_gradients():
    """Through the folded function, and through the folding to the original parameters."""
    fn, params, x = params_of("before other things")
    graph = trace(fn, params, x)
    folding = find_folding(graph)
    small_fn = folded(graph, folding)

    def loss(fn):
        return lambda *args: jnp.square(fn(*args)).sum()

    through = jax.jit(jax.grad(lambda p: loss(small_fn)(fold_params(graph, folding, p), x)))
    direct = jax.jit(jax.grad(loss(fn)))(params, x)
    chex.assert_trees_all_close(through(params), direct, rtol=1e-3, atol=1e-4)
    small = fold_params(graph, folding, params)
    of_small = jax.jit(jax.grad(loss(small_fn)))
    assert np.abs(of_small(small, x)["bias"]).max() > 0
    # A call that nothing changed in keeps its own derivative: 0 where a ReLU's input is 0.
    zeros = jax.tree.map(np.zeros_like, small) | {"w2": params["w2"]}
    assert not of_small(zeros, x)["bias"].any()


@pytest.mark.parametrize("name", ["conv", "depthwise", "experts"])
def test_integers_are_those_of_the_original(name):
    """A scale for each output takes up what folding multiplies in, but for its sign."""
    fn, params, x = params_of(name)
    params["scale"] = np.abs(params["scale"])
    graph = trace(fn, params, x)
    folding = find_folding(graph)
    small = fold_params(graph, folding, params)
    policy = Policy((Rule("*", activations=None),), edges=None)

    def integers(graph, params):
        chosen = assign(graph, policy)
        quantized = convert(graph, chosen, params, calibrate(graph, chosen, params))
        return quantized.sites["w"]["weights"].values

    found = integers(trace(folded(graph, folding), small, x), small)
    assert found.dtype == jnp.int8
    chex.assert_trees_all_equal(found, integers(graph, params))


def test_the_norms_of_slim_models_are_flaxs():
    """Without scale, without bias, on a dense layer."""
    layer = BatchNorm(use_running_average=True, use_scale=False, use_bias=False)
    x = normal(0, 3, 4)
    params = {"w": normal(1, 4, 4)} | random_like(layer.init(KEY, x))
    small = assert_folds(
        lambda p, x: layer.apply({"batch_stats": p["batch_stats"]}, x @ p["w"]),
        params,
        x,
        expected=["w"],
    )
    assert set(small) == {"w", "bias"}


def test_refusals():
    fn, params, x = params_of("dense")
    graph = trace(fn, params, x)
    folding = find_folding(graph)
    small = fold_params(graph, folding, params)
    with pytest.raises(ValueError, match=r"site 'v' .*no such site; nearest .*: w"):
        folded(graph, Folding(("v",)))
    with pytest.raises(ValueError, match=r"site 'w' .*nothing that can be folded follows it"):
        fold_params(trace(one_bias, params, x), folding, params)
    with pytest.raises(ValueError, match="the params lack 'bias'"):
        folded(graph, folding)(params, x)
    with pytest.raises(ValueError, match="the params lack 'beta'; nearest of theirs: bias"):
        fold_params(graph, folding, small)
    with pytest.raises(ValueError, match=r"'more' has shape \(2,\), the graph has no such"):
        fold_params(graph, folding, params | {"more": jnp.ones(2)})

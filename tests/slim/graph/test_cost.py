"""Costs against XLA's own count, brute force, and published figures."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import models
from slim.graph import cost, trace
from slim.graph.cost import window_taps

shape = jax.ShapeDtypeStruct


def model_graph(name, image, num_classes=1000, batch=1):
    model = models.create(name, num_classes=num_classes)
    images = shape((batch, *image), jnp.float32)
    variables = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(images.shape), train=False), jax.random.key(0)
    )
    return trace(lambda v, x: model.apply(v, x, train=False), variables, images)


# He et al. 2016 (table 1, with projections), Sandler et al. 2018 (table 4), and ViT-B/16 as
# torchvision publishes them.
@pytest.mark.parametrize(
    ("name", "gmacs"), [("resnet50", 4.09), ("mobilenet_v2", 0.30), ("vit_b", 17.56)]
)
def test_published_macs(name, gmacs):
    assert cost(model_graph(name, (224, 224, 3))).macs / 1e9 == pytest.approx(gmacs, abs=0.005)


# Before XLA has fused anything; it makes a polynomial of the erf of ViT's GELU, here one FLOP.
@pytest.mark.parametrize(
    ("name", "rel"),
    [("mlp", 1e-6), ("resnet8", 1e-6), ("mobilenet_v3_small", 1e-6), ("vit_ti", 0.06)],
)
def test_flops_are_xlas(name, rel):
    graph = model_graph(name, (32, 32, 3), num_classes=10, batch=2)
    analysis = jax.jit(graph.fn).lower(graph.params, *graph.inputs).cost_analysis()
    xla = analysis["flops"] + analysis.get("transcendentals", 0)
    assert cost(graph).flops == pytest.approx(xla, rel=rel)


def test_flops_are_xlas_when_compiled():
    """Nearly: fusions compute some things twice and others not at all."""
    graph = model_graph("resnet8", (16, 16, 3), num_classes=10, batch=2)
    analysis = jax.jit(graph.fn).lower(graph.params, *graph.inputs).compile().cost_analysis()
    xla = analysis["flops"] + analysis.get("transcendentals", 0)
    assert cost(graph).flops == pytest.approx(xla, rel=0.03)


CONVS = {
    "plain": {"window_strides": (1,), "padding": ((0, 0),)},
    "same": {"window_strides": (1,), "padding": ((1, 1),)},
    "strided": {"window_strides": (2,), "padding": ((1, 2),)},
    "dilated": {"window_strides": (1,), "padding": ((2, 2),), "rhs_dilation": (2,)},
    "transposed": {"window_strides": (1,), "padding": ((2, 1),), "lhs_dilation": (2,)},
    "both": {
        "window_strides": (3,),
        "padding": ((3, 0),),
        "lhs_dilation": (2,),
        "rhs_dilation": (3,),
    },
    "grouped": {"window_strides": (1,), "padding": ((1, 1),), "feature_group_count": 2},
    "cropped": {"window_strides": (1,), "padding": ((-1, -1),)},
}


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_count_each_product_once(name):
    """With ones everywhere, the sum of a convolution's results is its number of products."""
    options = CONVS[name]
    groups = options.get("feature_group_count", 1)
    x, w = jnp.ones((2, 7, 4)), jnp.ones((3, 4 // groups, 6))

    def conv(w, x):
        return jax.lax.conv_general_dilated(
            x, w, **options, dimension_numbers=("NWC", "WIO", "NWC")
        )

    row = cost(trace(conv, w, x)).rows[0]
    assert row.flops == 2 * int(conv(w, x).sum())
    padded = {**options, "padding": tuple((0, 0) for _ in options["padding"])}
    if "lhs_dilation" not in options and name != "cropped":
        # The literature's MACs: padding is data.
        (low, high), wide = options["padding"][0], jnp.pad(x, ((0, 0), *options["padding"], (0, 0)))
        assert low + high + 7 == wide.shape[1]
        filled = jax.lax.conv_general_dilated(
            jnp.ones_like(wide), w, **padded, dimension_numbers=("NWC", "WIO", "NWC")
        )
        assert row.macs == int(filled.sum())


def test_a_transposed_convolution_spreads_each_entry_once():
    w, x = shape((3, 3, 4, 6), jnp.float32), shape((2, 8, 8, 4), jnp.float32)
    graph = trace(lambda w, x: jax.lax.conv_transpose(x, w, (2, 2), "SAME"), w, x)
    assert cost(graph).macs == 2 * 8 * 8 * 3 * 3 * 4 * 6


@pytest.mark.parametrize("spec", ["ij,jk->ik", "bij,bjk->bik", "bhqd,bhkd->bhqk", "ijk,jkl->il"])
def test_einsums_count_every_index_combination(spec):
    left, right = spec.split("->")[0].split(",")
    sizes = dict(zip("bhqdkijl", range(2, 10), strict=False))
    a, b = (shape(tuple(sizes[i] for i in term), jnp.float32) for term in (left, right))
    graph = trace(lambda w, x: jnp.einsum(spec, w, x), a, b)
    assert cost(graph).macs == np.prod([sizes[i] for i in set(left + right)])


def test_ragged_dot_counts_rows_once():
    w, x, sizes = shape((3, 4, 5), jnp.float32), shape((8, 4), jnp.float32), jnp.array([2, 2, 4])
    graph = trace(lambda w, x, s: jax.lax.ragged_dot(x, w, s), w, x, sizes)
    assert cost(graph).macs == 8 * 4 * 5


def test_scans_cond_and_while():
    w, x = shape((6, 4, 4), jnp.float32), shape((2, 4), jnp.float32)

    def scanned(w, x):
        return jax.lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, w)[0]

    def branch(w, x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w[0], lambda x: x @ w[0] @ w[1], x)

    def loop(w, x):
        return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x @ w[0], x)

    once = 2 * 4 * 4
    row = cost(trace(scanned, w, x)).rows[0]
    assert (row.macs, row.times, row.params) == (6 * once, 6, ("",))
    assert cost(trace(branch, w, x)).macs == 2 * once
    in_loop = cost(trace(loop, w, x))
    assert in_loop.macs == once
    assert "test_cost.py" in in_loop.unknown_trips[0]


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap])
def test_transforms_change_no_count(wrap):
    w, x = shape((4, 5), jnp.float32), shape((3, 4), jnp.float32)
    plain = trace(lambda w, x: jax.nn.relu(x @ w), w, x)
    wrapped = trace(lambda w, x: wrap(lambda x: jax.nn.relu(x @ w))(x), w, x)
    assert (cost(plain).macs, cost(plain).flops) == (cost(wrapped).macs, cost(wrapped).flops)


def test_sites_are_named_by_parameters_through_casts_and_reshapes():
    params = {"a": {"kernel": shape((4, 6), jnp.float32)}}

    def fn(params, x):
        kernel = jax.jit(lambda w: w.astype(jnp.bfloat16))(params["a"]["kernel"])
        return x.astype(jnp.bfloat16) @ kernel.T.reshape(4, 6)

    row = cost(trace(fn, params, shape((2, 4), jnp.float32))).rows[0]
    assert row.name == "a/kernel"
    assert row.bytes == 2 * (2 * 4 + 4 * 6 + 2 * 6)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "hole"),
    list(product((3, 5), (1, 3), (1, 2), (0, 1), (1, 2))),
)
def test_window_taps_by_brute_force(size, kernel, stride, pad, hole):
    width = (size - 1) * hole + 1
    out = (width + 2 * pad - kernel) // stride + 1
    dilated = np.full(width, 0)
    dilated[::hole] = 1
    data = np.pad(dilated, pad)
    hits = sum(data[o * stride + t] for o in range(out) for t in range(kernel))
    assert window_taps(size, kernel, out, stride=stride, pad=pad, lhs_dilation=hole)[1] == hits


def test_totals_are_sums_and_parameters_are_counted():
    params = {"w": shape((4, 6), jnp.float32), "b": shape((6,), jnp.bfloat16)}
    graph = trace(
        lambda p, x: x @ p["w"] + p["b"].astype(jnp.float32), params, shape((2, 4), jnp.float32)
    )
    total = cost(graph)
    assert (total.params, total.param_bytes) == (30, 24 * 4 + 12)
    assert total.flops == sum(row.flops for row in total.rows) == 2 * 48 + 12
    assert total.activation_bytes == 4 * (12 + 6 + 6 + 12)


def test_what_is_inside_shard_map_counts_on_each_device():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = jax.P(("a", "b"))
    f = jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=(jax.P(), rows), out_specs=rows)
    params, x = jax.ShapeDtypeStruct((3, 5), "float32"), jax.ShapeDtypeStruct((16, 3), "float32")
    assert cost(trace(f, params, x)).macs == cost(trace(lambda w, x: x @ w, params, x)).macs


def test_of_what_depends_on_the_platform_its_own_counts():
    def f(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ w @ w, tpu=lambda x: x @ w)

    traced = trace(f, jax.ShapeDtypeStruct((3, 3), "float32"), jnp.ones((2, 3)))
    assert [cost(traced, p).macs for p in (None, "cpu", "tpu")] == [36, 36, 18]

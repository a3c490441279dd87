"""Every kind of primitive between two matrix products: what may be cut, what freezes and why."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from slim.graph import frozen_groups, groups, primitives, trace
from slim.graph.rules import elementwise
from tests.slim.graph.exactness import assert_exact

ROWS, LENGTH, WIDTH = 2, 6, 8
KEY = jax.random.key(0)
MESH = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def pooled(x, reduction=lax.max, start=-jnp.inf):
    return lax.reduce_window(x, start, reduction, (1, 2, 1), (1, 2, 1), "VALID")


def over_devices(fn):
    rows = jax.P("data")
    return jax.shard_map(fn, mesh=MESH, in_specs=rows, out_specs=rows)


def noise(x):
    """Random numbers times nothing: those of the small shape are others."""
    bits = lax.rng_bit_generator(jnp.arange(4, dtype=jnp.uint32), x.shape)[1]
    drawn = jax.random.uniform(jax.random.fold_in(KEY, 1), x.shape, x.dtype)
    return x + 0.0 * (drawn + bits.astype(x.dtype))


def scattered(method, x):
    ones = jnp.ones_like(x)
    return getattr(ones.at[:, jnp.array([0, 3])], method)(x[:, :2])


def written(x):
    """A cache of more rows, written at a place that is data, read back one row later."""
    at = jnp.argmax(x.sum(2)[0]) % 2
    cache = lax.dynamic_update_slice_in_dim(jnp.zeros((ROWS, 9, x.shape[-1])), x, at, axis=1)
    return lax.dynamic_slice_in_dim(cache, at + 1, LENGTH, axis=1)


def weights(*shape):
    return jnp.cos(jnp.arange(float(np.prod(shape)))).reshape(shape)


def ragged(x):
    """Rows in runs, each run through its own matrix of constants."""
    rows = x.reshape(ROWS * LENGTH, -1)
    return lax.ragged_dot(rows, weights(3, WIDTH, 5), jnp.array([5, 3, 4], jnp.int32))


def convolved(x, **options):
    """A depthwise convolution along the rows."""
    return lax.conv_general_dilated(
        x, weights(3, 1, WIDTH), (1,), ((1, 1),), dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=WIDTH, **options,
    )  # fmt: skip


# From `(rows, length, width)` to anything; the width may be cut.
FREE = {
    "fft": lambda x: jnp.fft.fft(x, axis=1).imag,
    "rfft": lambda x: jnp.fft.irfft(jnp.conj(jnp.fft.rfft(x, axis=1)), axis=1),
    "sort": lambda x: jnp.sort(x, axis=1),
    "sort of two": lambda x: lax.sort((x, 2 * x), dimension=1)[1],
    "top_k": lambda x: lax.top_k(x.swapaxes(1, 2), 3)[0].swapaxes(1, 2),
    "argmax": lambda x: jnp.argmax(x, axis=1).astype(x.dtype) * x.mean(1),
    "argmin": lambda x: jnp.argmin(x, axis=1).astype(x.dtype) * x.mean(1),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "cumsum over width": lambda x: x * jnp.cumsum(x, axis=2),
    "cumprod": lambda x: jnp.cumprod(x, axis=1),
    "cummax": lambda x: lax.cummax(x, axis=1),
    "cummin": lambda x: lax.cummin(x, axis=1, reverse=True),
    "cumlogsumexp": lambda x: x * lax.cumlogsumexp(x, axis=1),
    "associative_scan": lambda x: lax.associative_scan(jnp.add, x, axis=1),
    "reverse": lambda x: jnp.flip(x, 1),
    "reduce": lambda x: lax.reduce(x, np.zeros((), x.dtype), lambda a, b: a + 2 * b, (1,)),
    "window of any kind": partial(pooled, reduction=lambda a, b: a + 2 * b, start=0.0),
    "window minimum": partial(pooled, reduction=lax.min, start=jnp.inf),
    "pooling": pooled,
    "pooling's gradient": lambda x: x * jax.grad(lambda x: jnp.square(pooled(x)).sum())(x),
    "pooling's tangent": lambda x: jax.jvp(pooled, (x,), (jnp.square(x),))[1],
    "scatter": partial(scattered, "set"),
    "scatter-add": partial(scattered, "add"),
    "scatter-mul": partial(scattered, "multiply"),
    "scatter-min": partial(scattered, "min"),
    "scatter-max": partial(scattered, "max"),
    "scatter of columns": lambda x: jnp.zeros_like(x).at[..., jnp.arange(WIDTH)].set(x),
    "scatter-add of columns": lambda x: jnp.ones_like(x).at[..., jnp.arange(WIDTH)].add(x),
    "gather": lambda x: jnp.take(x, jnp.argsort(x.sum(2)[0]), axis=1),
    "gather per row": lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1, keepdims=True), axis=1),
    "dynamic_update_slice": written,
    "ragged_dot": ragged,
    "tile": lambda x: jnp.tile(x, (1, 2, 1)),
    "dilated conv": partial(convolved, rhs_dilation=(2,)),
    "transposed conv": partial(convolved, lhs_dilation=(2,)),
    "random bits": noise,
    "batched by vmap": jax.vmap(jax.vmap(lambda row: row * jnp.square(row).sum())),
    "custom derivative in a scan": lambda x: lax.scan(
        lambda state, row: (jax.nn.silu(state) + row, state), x[:, 0], x.swapaxes(0, 1)
    )[1].swapaxes(0, 1),
    "map": lambda x: lax.map(jnp.tanh, x),
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, x: x * 0.5 + i, x),
    "switch": lambda x: lax.switch(1, [jnp.sin, jnp.tanh, jnp.square], x),
    "remat by name": jax.checkpoint(
        lambda x: jnp.sin(checkpoint_name(jnp.sin(x), "inner")),
        policy=jax.checkpoint_policies.save_only_these_names("inner"),
    ),
    "barrier": lambda x: lax.optimization_barrier((x, jnp.sin(x)))[1],
    "constraint": lambda x: lax.with_sharding_constraint(x, jax.NamedSharding(MESH, jax.P("data"))),
    "composite": lambda x: lax.composite(jnp.sin, "ours.sine")(x),
    "psum": over_devices(lambda x: x - lax.pmean(x, "data")),
    "pmax": over_devices(lambda x: x - lax.pmax(lax.stop_gradient(x), "data")),
    "all_gather": over_devices(lambda x: x * lax.all_gather(x, "data", tiled=True).sum(0)),
    "ppermute": over_devices(lambda x: lax.ppermute(x, "data", [(0, 1), (1, 0)])),
    "integers": lambda x: (jnp.round(x).astype(jnp.int32) + 1) // 2,
    "sum of halved integers": lambda x: (((x > 9).astype(jnp.int32) + 1) // 2).sum(2),
    "sum of rounded halves": lambda x: lax.round(jax.nn.sigmoid(x)).sum(2),
}

# What JAX does not differentiate, or into nothing.
WITHOUT_GRADIENT = (
    *("window of any kind", "scatter-mul", "composite"),
    *("integers", "sum of halved integers", "sum of rounded halves"),
)

# The width may not be cut; the primitive that says so.
FROZEN = {
    "fft": (lambda x: jnp.fft.fft(x).real, "fft"),
    "sort": (lambda x: jnp.sort(x), "sort"),
    "top_k": (lambda x: lax.top_k(x, 3)[0], "top_k"),
    "argmax": (lambda x: jnp.argmax(x, axis=-1), "argmax"),
    "cumprod": (lambda x: jnp.cumprod(x, axis=2), "cumprod"),
    "cummax": (lambda x: lax.cummax(x, axis=2), "cummax"),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, axis=2), "cumlogsumexp"),
    "reverse": (lambda x: jnp.flip(x, -1), "rev"),
    "maximum": (lambda x: x.max(-1), "reduce_max"),
    "reduce": (
        lambda x: lax.reduce(x, np.ones((), x.dtype), lambda a, b: a + 2 * b, (2,)),
        "reduce",
    ),
    "window": (lambda x: pooled(x.swapaxes(1, 2)), "reduce_window_max"),
    "dynamic_slice": (
        lambda x: lax.dynamic_slice_in_dim(x, 2 + 0 * jnp.argmax(x), 3, 2),
        "dynamic_slice",
    ),
    "dynamic_update_slice": (
        lambda x: lax.dynamic_update_slice_in_dim(jnp.zeros((2, 6, 9)), x, jnp.argmax(x), 2),
        "dynamic_update_slice",
    ),
    "gather": (lambda x: x[..., jnp.array([3, 1])], "gather"),
    "scatter of columns": (lambda x: jnp.ones_like(x).at[..., jnp.arange(8)].set(x), "scatter"),
    "scatter over columns": (lambda x: x.at[..., jnp.arange(8)].set(1.0), "scatter"),
    "no rule": (lambda x: jnp.linalg.cholesky(jnp.einsum("bsi,bsj->bij", x, x)), "cholesky"),
    "a function's own": (lambda x: jax.pure_callback(np.sin, x, x), "pure_callback"),
}


def between(fn):
    """`fn` between two matrix products, the second only where the width is still there."""

    def program(params, x):
        y = fn(x @ params["in"])
        return y.astype(x.dtype) @ params["out"] if y.shape[-1] == WIDTH else y

    return program


def params(*names):
    rng = np.random.default_rng(0)
    each = {"in": (10, WIDTH), "out": (WIDTH, 3)}
    return {
        name: {k: np.float32(rng.normal(size=s) / 3) for k, s in each.items()} for name in names
    }


X = np.float32(np.random.default_rng(1).normal(size=(ROWS, LENGTH, 10)))


@pytest.mark.parametrize("name", FREE)
def test_the_width_may_be_cut(name):
    graph = trace(between(FREE[name]), params(name)[name], X)
    assert ("in:1", WIDTH) in [(group.name, group.size) for group in groups(graph)]


@pytest.mark.parametrize("gradients", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_small_is_masked(gradients):
    """All of them in one program, in double precision."""
    names = [name for name in FREE if not gradients or name not in WITHOUT_GRADIENT]

    def program(params, x):
        return {name: between(FREE[name])(params[name], x) for name in names}

    with jax.enable_x64(True):
        double = jax.tree.map(np.float64, (params(*names), X))
        found = assert_exact(program, *double, gradients=gradients, tolerance=1e-9)
    assert len([name for name in found if name.endswith("in:1")]) == len(names)


@pytest.mark.parametrize("name", FROZEN)
def test_what_freezes_is_named_with_its_line(name):
    fn, primitive = FROZEN[name]
    graph = trace(between(fn), params(name)[name], X)
    assert "in:1" not in [group.name for group in groups(graph)]
    reasons = {group.name: group.frozen for group in frozen_groups(graph)}["in:1"]
    assert any(reason.startswith(f"{primitive} at test_rules.py:") for reason in reasons), reasons


OPERATIONS = {
    **{name: getattr(lax, name, None) for name in elementwise.FUNCTIONS},
    "round": lax.round,
    "round to even": partial(lax.round, rounding_method=lax.RoundingMethod.TO_NEAREST_EVEN),
    "cube": lambda x: lax.integer_pow(x, 3),
    "to integers": lambda x: lax.convert_element_type(x, jnp.uint8),
    "to half precision": lambda x: lax.convert_element_type(x, jnp.bfloat16),
}
VALUES = {"f": (-300.0, -1.5, -0.5, 0.0, 0.3, 0.5, 1.0, 2.5), "i": (-300, -3, -1, 0, 1, 2, 7)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_removed_entries_are_known_as_they_are_computed(dtype):
    """What folding says of numbers is what the operation makes of them, to the last bit or two."""
    equations, operands = {}, {}
    values = VALUES["i" if dtype == jnp.int32 else "f"]
    for name, operation in OPERATIONS.items():
        if not callable(operation):
            continue
        arity = 3 if name == "clamp" else 2 if name in primitives.NARY else 1
        columns = np.array(list(product(values, repeat=arity)), np.float64).T
        if name in ("div", "rem"):
            columns = columns[:, columns[1] != 0]
        operands[name] = [jnp.asarray(column, dtype) for column in columns]
        try:
            made = jax.make_jaxpr(operation)(*operands[name]).eqns
        except TypeError:  # Not of this type.
            continue
        if made:  # None is made of a conversion to the type that it is.
            equations[name] = made[-1]
    assert len(equations) > 15
    results = jax.jit(lambda: {name: OPERATIONS[name](*operands[name]) for name in equations})()
    for name, eqn in equations.items():
        rows = zip(*(np.asarray(each, np.float64) for each in operands[name]), strict=True)
        for row, result in zip(rows, np.asarray(results[name], np.float64), strict=True):
            folded = elementwise.fold(eqn, list(row))
            if folded is None:
                out_of_range = name in ("to integers", "div", "pow", "rem", "cube")
                assert np.isnan(result) or out_of_range, (name, row, result)
            else:
                rtol = 0 if dtype == jnp.int32 else 4 * float(jnp.finfo(dtype).eps)
                np.testing.assert_allclose(folded, result, rtol=rtol, err_msg=f"{name} {row}")

"""What every backend of the grouped matmul promises: each row times its expert's matrix."""

import importlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.moe.experts import Experts, swiglu
from slim.moe.grouped import BACKENDS, PLATFORMS, backend_for, backend_named, grouped_matmul

blocks = importlib.import_module("slim.moe.grouped.blocks")
padded = importlib.import_module("slim.moe.grouped.padded")

ROWS, WIDTH, HIDDEN, EXPERTS = 22, 3, 4, 5
SIZES = {
    "even": (5, 5, 4, 4, 4),
    "all to one": (0, 0, 22, 0, 0),
    "some none": (0, 9, 0, 13, 0),
    "not all rows": (1, 0, 9, 0, 7),
    "no rows": (0, 0, 0, 0, 0),
}


def inputs(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = (ROWS, WIDTH), (EXPERTS, WIDTH, HIDDEN), (ROWS, HIDDEN)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def row_by_row(x, weights, sizes, dy):
    """Product and gradients, in NumPy."""
    x, weights, dy = (np.asarray(a, np.float64) for a in (x, weights, dy))
    y, dx, dweights = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(weights.shape)
    for row, expert in enumerate(np.repeat(np.arange(EXPERTS), sizes)):
        y[row] = x[row] @ weights[expert]
        dx[row] = weights[expert] @ dy[row]
        dweights[expert] += np.outer(x[row], dy[row])
    return y, dx, dweights


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """So that few rows are several blocks, whole and partial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "ROWS", (8, 4))
        yield


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]


@pytest.fixture(scope="module")
def passes(backend):
    """`(x, weights, sizes, dy) -> (y, dx, dweights)`, compiled."""

    def both(x, weights, sizes, dy):
        fn = partial(grouped_matmul, sizes=sizes, grouped=backend)
        y, pull = jax.vjp(fn, x, weights)
        return y, *pull(dy)

    return jax.jit(both)


def test_equals_row_by_row_in_both_passes_without_a_second_compilation(passes):
    x, weights, dy = inputs()
    for sizes in SIZES.values():
        got = passes(x, weights, jnp.array(sizes), dy)
        for mine, expected in zip(got, row_by_row(x, weights, sizes, dy), strict=True):
            np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert passes._cache_size() == 1


def test_half_precision_in_both_passes(passes):
    x, weights, dy = inputs(jnp.bfloat16)
    sizes = SIZES["not all rows"]
    got = passes(x, weights, jnp.array(sizes), dy)
    chex.assert_type(got, jnp.bfloat16)
    for mine, expected in zip(got, row_by_row(x, weights, sizes, dy), strict=True):
        np.testing.assert_allclose(np.asarray(mine, np.float64), expected, rtol=2e-2, atol=5e-2)


def test_abstract_evaluation(passes):
    x, weights, dy = inputs()
    sizes = jax.ShapeDtypeStruct((EXPERTS,), jnp.int32)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(passes, x, weights, sizes, dy), (dy, x, weights)
    )


def test_inside_shard_map_gradients_of_copies_are_summed(backend):
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    across, inner = PartitionSpec("data"), PartitionSpec(None, None, "tensor")
    x, weights, dy = inputs()
    sizes = np.array([[2, 0, 5, 4, 0], [0, 3, 0, 1, 7]])

    def local(x, weights, sizes):
        return grouped_matmul(x, weights, sizes[0], backend)

    fn = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(across, inner, across),
        out_specs=PartitionSpec("data", "tensor"),
    )

    @jax.jit
    def both(x, weights, sizes, dy):
        y, pull = jax.vjp(lambda x, weights: fn(x, weights, sizes), x, weights)
        return y, *pull(dy)

    halves = [
        row_by_row(own, weights, size, d)
        for own, size, d in zip(np.split(x, 2), sizes, np.split(dy, 2), strict=True)
    ]
    y, dx, dweights = zip(*halves, strict=True)
    expected = np.concatenate(y), np.concatenate(dx), sum(dweights)
    for mine, wanted in zip(both(x, weights, jnp.asarray(sizes), dy), expected, strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-5)


def test_the_lowering_chooses_the_platforms_backend():
    weights = Experts(*(jnp.ones(s) for s in ((2, 4, 8), (2, 4, 8), (2, 8, 4))))

    def loss(weights, x, sizes):
        return swiglu(weights, x, sizes, BACKENDS["platform"]).sum()

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(weights, jnp.ones((16, 4)), jnp.array([9, 7]))
    for platform in ("cpu", "tpu", "cuda", "rocm"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("ragged_dot" in text) == (backend_for(platform) == "ragged")
        assert ("stablehlo.while" in text) == (backend_for(platform) != "ragged")
        assert "scatter" not in text


@pytest.mark.parametrize(
    ("begin", "end", "rows"), [(0, 0, 9), (3, 20, 40), (0, 9, 9), (30, 40, 40), (1, 3, 3)]
)
def test_blocks_cover_each_row_once_and_compute_few_more(begin, end, rows):
    def count(carry, at, mine):
        written, computed = carry
        here = jnp.zeros(rows, jnp.int32).at[at + jnp.arange(mine.size)].set(mine.astype(jnp.int32))
        return written + here, computed + mine.size

    none = (jnp.zeros(rows, jnp.int32), 0)
    written, computed = blocks._each_block(count, none, jnp.array(begin), jnp.array(end), rows)
    np.testing.assert_array_equal(written, (np.arange(rows) >= begin) & (np.arange(rows) < end))
    assert computed < end - begin + min(blocks.ROWS[1], rows)


def test_padding_needs_one_pass_in_balance_and_as_many_as_the_fullest_expert_else():
    slots = padded._slots(4096, 16)
    assert slots == 320
    for fullest, passes in ((0, 0), (1, 1), (320, 1), (321, 2), (4096, 13)):
        assert padded._passes(jnp.array([0, fullest]), slots) == passes


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="backend: unknown name 'block'; did you mean 'blocks'"):
        backend_named("block")
    with pytest.raises(ValueError, match=r"platform: unknown name 'metal'.*tpu"):
        backend_for("metal")
    assert {backend_for(platform) for platform in PLATFORMS} <= set(BACKENDS)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import trace
from slim.prune import (
    DISTRIBUTIONS,
    STRUCTURES,
    Evidence,
    block,
    choose_masks,
    contracted_axes,
    n_m,
)

UNIFORM = DISTRIBUTIONS["uniform"]
SCORES = jax.random.uniform(jax.random.key(0), (3, 3, 16, 8))


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 8), (1, 2)])
def test_n_of_every_m_inputs_are_kept(n, m):
    mask = n_m(n, m)({"w": SCORES}, n / m, UNIFORM)["w"]
    groups = np.moveaxis(np.asarray(mask), -2, -1).reshape(-1, m)
    np.testing.assert_array_equal(groups.sum(axis=1), n)
    scores = np.moveaxis(np.asarray(SCORES), -2, -1).reshape(-1, m)
    lowest_kept = np.where(groups, scores, np.inf).min(axis=1)
    assert (lowest_kept >= np.where(groups, -np.inf, scores).max(axis=1)).all()


def test_equal_scores_still_keep_n():
    mask = n_m(2, 4)({"w": jnp.zeros((8, 3))}, 0.5, UNIFORM)["w"]
    np.testing.assert_array_equal(mask.reshape(2, 4, 3)[:, :2], True)
    np.testing.assert_array_equal(mask.reshape(2, 4, 3)[:, 2:], False)


@pytest.mark.parametrize(("keep", "count"), [(1.0, 4), (0.8, 4), (0.75, 3), (0.6, 3), (0.5, 2)])
def test_a_schedule_takes_n_down_step_by_step(keep, count):
    mask = jax.jit(lambda k: n_m(2, 4)({"w": SCORES}, k, UNIFORM)["w"])(keep)
    np.testing.assert_array_equal(mask.reshape(3, 3, 4, 4, 8).sum(axis=3), count)


def test_the_contracted_axis_may_be_named():
    heads = jax.random.uniform(jax.random.key(1), (8, 2, 3))
    found = n_m(2, 4, axes=[("*/query/*", 0)])({"a/query/kernel": heads, "b": SCORES}, 0.5, UNIFORM)
    np.testing.assert_array_equal(found["a/query/kernel"].reshape(2, 4, 2, 3).sum(axis=1), 2)
    np.testing.assert_array_equal(found["b"].reshape(3, 3, 4, 4, 8).sum(axis=3), 2)


def test_contracted_axes_are_read_off_the_graph():
    def fn(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).mean((1, 2))
        heads = jnp.einsum("bi,ihw->bhw", x, params["query"].astype(jnp.bfloat16).astype(x.dtype))
        x = jax.jit(lambda w, y: jnp.einsum("bhw,hwo->bo", y, w))(params["out"], heads)
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, params["stack"])
        return params["left"] @ x.T + params["left"].sum()

    params = {
        "conv": jnp.ones((3, 3, 4, 8)),
        "query": jnp.ones((8, 2, 4)),
        "out": jnp.ones((2, 4, 8)),
        "stack": jnp.ones((3, 8, 8)),
        "left": jnp.ones((5, 8)),
    }
    graph = trace(fn, params, jnp.ones((2, 6, 6, 4)))
    axes = contracted_axes(graph)
    assert dict(axes) == {"conv": 2, "query": 0, "out": 1, "stack": 1, "left": 1}
    masks = choose_masks(Evidence(params), 0.5, structure=n_m(2, 4, axes=axes))
    np.testing.assert_array_equal(masks["query"].reshape(2, 4, 2, 4).sum(axis=1), 2)
    np.testing.assert_array_equal(masks["left"].reshape(5, 2, 4).sum(axis=2), 2)
    # Rules for what may not be pruned would decide nothing.
    select = [("conv", False)]
    assert "conv" not in dict(contracted_axes(graph, select))
    choose_masks(
        Evidence(params),
        0.5,
        structure=n_m(2, 4, axes=contracted_axes(graph, select)),
        select=select,
    )


def test_n_m_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"M=4 along axis -2 of 'stem'.*\(3, 3, 3, 8\).*False"):
        n_m(2, 4)({"stem": jnp.ones((3, 3, 3, 8))}, 0.5, UNIFORM)
    with pytest.raises(ValueError, match=r"keep ratio is 0.3, 2:4 sparsity keeps 0.5"):
        n_m(2, 4)({"w": SCORES}, 0.3, UNIFORM)
    with pytest.raises(ValueError, match="4:4"):
        n_m(4, 4)
    with pytest.raises(ValueError, match="N:M axis rule 'x'"):
        n_m(2, 4, axes=[("x", 0)])({"w": SCORES}, 0.5, UNIFORM)


def test_blocks_stand_or_fall_together():
    mask = block(4, 2)({"w": SCORES}, 0.5, UNIFORM)["w"]
    tiles = mask.reshape(3, 3, 4, 4, 4, 2)
    np.testing.assert_array_equal(tiles.any(axis=(3, 5)), tiles.all(axis=(3, 5)))
    assert int(mask.sum()) == mask.size // 2
    sums = SCORES.reshape(3, 3, 4, 4, 4, 2).sum(axis=(3, 5))
    kept = tiles.all(axis=(3, 5))
    assert sums[kept].min() > sums[~kept].max()


def test_blocks_that_do_not_tile_are_refused():
    with pytest.raises(ValueError, match=r"blocks of 16 x 16 do not tile 'w'.*\(3, 3, 16, 8\)"):
        STRUCTURES["block_16x16"]({"w": SCORES}, 0.5, UNIFORM)
    with pytest.raises(ValueError, match="at least 1"):
        block(0, 4)

"""The oracle of slim.graph: the small function is the original on masked parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.graph import groups, make_plan, mask, replay, shrink, trace


def random_like(tree, seed=0):
    """Random parameters of the shapes of `tree`: small, and positive where there is one dim.

    NumPy's, so that preparing them compiles nothing.
    """
    rng = np.random.default_rng(seed)

    def leaf(like):
        if not jnp.issubdtype(like.dtype, jnp.floating):
            return np.zeros(like.shape, like.dtype)
        value = rng.normal(size=like.shape) / np.sqrt(max(1, np.prod(like.shape[:-1])))
        if len(like.shape) == 1:
            value = 0.5 + np.abs(value) / 2
        return np.asarray(value, like.dtype)

    return jax.tree.map(leaf, tree)


def random_plan(graph, seed=0, ratio=0.5):
    """A plan that keeps about `ratio` of every group, at random."""
    rng = np.random.default_rng(seed)
    keep = {
        group.name: rng.choice(group.size, max(1, round(group.size * ratio)), replace=False)
        for group in groups(graph)
    }
    return make_plan(graph, keep)


def loss_of(outputs):
    """A scalar that every output entry moves differently."""
    total = 0.0
    for leaf in jax.tree.leaves(outputs):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            weights = np.cos(np.arange(leaf.size)).reshape(leaf.shape)
            total += jnp.sum(leaf * weights.astype(leaf.dtype))
    return total


def assert_close(small, masked, tolerance):
    """Trees equal to `tolerance` of the largest entry of each leaf."""
    for (path, a), b in zip(paths.flatten(small).items(), jax.tree.leaves(masked), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(np.abs(b).max(initial=0), 1e-3), err_msg=path
        )


def assert_exact(fn, params, *inputs, ratio=0.5, seed=0, tolerance=1e-5, gradients=True):
    """Output and gradients of the small function equal the masked ones; returns the groups."""
    graph = trace(fn, params, *inputs)
    plan = random_plan(graph, seed, ratio)
    small, masked = shrink(plan, params), mask(plan, params)
    chex.assert_trees_all_equal(shrink(plan, masked), small)
    small_fn = replay(graph, plan)

    def small_loss(small):
        # Outputs that are parameters' new values come out small.
        outputs = small_fn(small, *inputs)
        return loss_of(outputs), outputs

    def masked_loss(small):
        outputs = shrink(plan, fn(put_back(plan, small, params), *inputs))
        return loss_of(outputs), outputs

    def both(small):
        if not gradients:
            return [(loss(small)[1], None) for loss in (small_loss, masked_loss)]
        derive = [
            jax.grad(loss, has_aux=True, allow_int=True) for loss in (small_loss, masked_loss)
        ]
        return [tuple(reversed(each(small))) for each in derive]

    (got, got_grads), (want, want_grads) = jax.jit(both)(small)
    for a, b in zip(*map(jax.tree.leaves, (got_grads, want_grads)), strict=True):
        if a.dtype != jax.dtypes.float0:
            assert_close(a, b, tolerance)
    assert_close(got, want, tolerance)
    return {group.name: group for group in groups(graph)}


def put_back(plan, small, like):
    """Small parameters at their places in full ones, zeros elsewhere: a second way to mask."""

    def leaf(path, value, full):
        kept = plan.indices.get(path)
        if kept is None:
            return value
        where = np.ix_(
            *(np.arange(n) if k is None else k for n, k in zip(full.shape, kept, strict=True))
        )
        return jnp.zeros(full.shape, value.dtype).at[where].set(value)

    return paths.map_with_path(leaf, small, like)

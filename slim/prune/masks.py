"""Masks: bool arrays in the structure and shapes of the parameters, True where a weight is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from slim import paths
from slim.prune.evidence import is_kernel

PyTree = Any


def prunable(params: PyTree, rules: Sequence[tuple[str, bool]] = ()) -> dict[str, bool]:
    """Which parameters may be pruned, by path.

    Args:
        params: arrays or `ShapeDtypeStruct`s.
        rules: (path pattern, whether) pairs, first match wins. What no rule decides is prunable
            if it is a kernel by `is_kernel`.

    Raises:
        ValueError: a rule decides nothing, picks an array that is not floating-point, or nothing
            is left to prune.

    >>> params = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}
    >>> prunable(params)
    {'dense/bias': False, 'dense/kernel': True}
    """
    leaves = paths.flatten(params)
    decided = paths.resolve(rules, leaves, what="pruning rule")
    chosen = {}
    for path, leaf in leaves.items():
        if decided[path] and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"pruning rule picks {path!r} of dtype {leaf.dtype}; only floating-point "
                "parameters can be pruned: add a rule before it that leaves this one out"
            )
        rule = decided[path]
        chosen[path] = is_kernel(path, leaf) if rule is None else bool(rule)
    if not any(chosen.values()):
        raise ValueError(
            f"nothing to prune: none of the {len(leaves)} parameters is a kernel by the default "
            f"rule or picked by a rule; add one such as ({next(iter(leaves), '*')!r}, True)"
        )
    return chosen


def full_masks(params: PyTree) -> PyTree:
    """Masks that keep everything."""
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, dtype=bool), params)


def replace_masks(masks: PyTree, new: Mapping[str, jax.Array]) -> PyTree:
    """`masks` with those at the paths of `new` replaced."""
    return paths.map_with_path(lambda path, mask: new.get(path, mask), masks)


def apply_masks(masks: PyTree, params: PyTree) -> PyTree:
    """The parameters with exact zeros where the mask is False.

    >>> apply_masks({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, float("inf")])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    # where and not a product: 0 * inf is NaN.
    return jax.tree.map(lambda mask, p: jnp.where(mask, p, jnp.zeros_like(p)), masks, params)


def straight_through(masks: PyTree, params: PyTree) -> PyTree:
    """`apply_masks` whose gradient passes to removed weights as if nothing were masked.

    The straight-through estimator (Bengio et al. 2013, arXiv:1308.3432), for a loss of dense
    parameters that a sparse network computes: d straight_through(p) / dp = 1.

    >>> masks, loss = {"w": jnp.array([True, False])}, lambda p: p["w"] @ jnp.array([1.0, 2.0])
    >>> jax.grad(lambda p: loss(straight_through(masks, p)))({"w": jnp.ones(2)})
    {'w': Array([1., 2.], dtype=float32)}
    """

    def leaf(mask: jax.Array, p: jax.Array) -> jax.Array:
        zero = p - jax.lax.stop_gradient(p)
        return jax.lax.stop_gradient(jnp.where(mask, p, jnp.zeros_like(p))) + zero

    return jax.tree.map(leaf, masks, params)


def count_kept(masks: PyTree) -> tuple[int, int]:
    """Number of kept weights and of all weights, over concrete masks.

    >>> count_kept({"w": jnp.array([True, False, True])})
    (2, 3)
    """
    leaves = jax.tree.leaves(masks)
    return sum(int(mask.sum()) for mask in leaves), sum(mask.size for mask in leaves)


def density(masks: PyTree) -> dict[str, float]:
    """Share of kept weights of each tensor, over concrete masks, by path.

    >>> density({"w": jnp.array([True, False])})
    {'w': 0.5}
    """
    return {path: float(mask.mean()) for path, mask in paths.flatten(masks).items()}

"""Normalisations by name: what makes the scores of one group comparable with another's.

A new one is a function from (size,) scores to (size,) scores and its place in `NORMALISATIONS`. It
keeps the order within a group; groups of zero scores stay zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Normalisation = Callable[[jax.Array], jax.Array]


def none(scores: jax.Array) -> jax.Array:
    """The scores themselves: for those that estimate a change of the loss (taylor, fisher)."""
    return scores


def mean(scores: jax.Array) -> jax.Array:
    """Scores / their mean: every group loses its below-average units first."""
    return _over(scores, scores.mean())


def max_(scores: jax.Array) -> jax.Array:
    """Scores / their largest."""
    return _over(scores, scores.max())


def total(scores: jax.Array) -> jax.Array:
    """Scores / their sum: wide groups lose first."""
    return _over(scores, scores.sum())


def l2(scores: jax.Array) -> jax.Array:
    """Scores / their L2 norm (Molchanov et al. 2017, arXiv:1611.06440)."""
    return _over(scores, jnp.linalg.norm(scores))


def _over(scores: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.where(scale > 0, scores / jnp.where(scale > 0, scale, 1.0), 0.0)


NORMALISATIONS: dict[str, Normalisation] = {
    "none": none,
    "mean": mean,
    "max": max_,
    "sum": total,
    "l2": l2,
}

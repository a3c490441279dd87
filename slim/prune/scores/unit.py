"""Scores that only whole units have."""

from typing import Any

import jax
import jax.numpy as jnp

from slim.prune.evidence import Leaf
from slim.prune.scores.score import Score


def _distances(leaf: Leaf) -> tuple[jax.Array, ...]:
    rows = leaf.weight
    norms = jnp.square(rows).sum(axis=1)
    products = jnp.matmul(rows, rows.T, precision="highest")
    return (norms[:, None] + norms[None, :] - 2 * products,)


def _total_distance(squares: jax.Array) -> jax.Array:
    # Exactly 0 to itself, where rounding could leave a little.
    squares = jnp.where(jnp.eye(squares.shape[0], dtype=bool), 0.0, jnp.maximum(squares, 0.0))
    return jnp.sqrt(squares).sum(axis=1)


fpgm = Score("fpgm", needs=(), terms=_distances, finish=_total_distance, weights=None)
"""sum_j ||w_i - w_j||_2: units near the geometric median of their layer can be made of the others
(He et al. 2019, arXiv:1811.00250)."""


def _is_scale(path: str, leaf: Any) -> bool:
    del leaf
    return path.rpartition("/")[2] == "scale"


norm_scale = Score(
    "norm_scale",
    needs=(),
    terms=lambda leaf: (jnp.abs(leaf.weight).sum(axis=1),),
    finish=lambda total: total,
    weights=None,
    counts=_is_scale,
)
"""sum |gamma| of the normalisation layers that scale the unit (Liu et al. 2017, arXiv:1708.06519);
parameters named `scale`."""

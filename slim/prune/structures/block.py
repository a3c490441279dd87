"""Rectangular blocks: dense where they are, absent elsewhere."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from slim.prune.distributions import Distribution
from slim.prune.structures.structure import Structure


def block(rows: int, columns: int) -> Structure:
    """Blocks of `rows` inputs by `columns` outputs, the last two axes of a kernel.

    A block's score is its weights' sum; the distribution ranks blocks, so the share of blocks kept
    is the share of weights kept.

    Raises:
        ValueError: a block of no size; when applied, a tensor that blocks do not tile.

    >>> import jax.numpy as jnp
    >>> from slim.prune import DISTRIBUTIONS
    >>> scores = {"w": jnp.array([[1.0, 1.0, 0.0, 9.0]])}
    >>> block(1, 2)(scores, 0.5, DISTRIBUTIONS["uniform"])
    {'w': Array([[False, False,  True,  True]], dtype=bool)}
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"block of {rows} x {columns}: both sides must be at least 1")

    def masks(
        scores: Mapping[str, jax.Array], keep: jax.Array | float, distribution: Distribution
    ) -> dict[str, jax.Array]:
        pooled = {path: _pool(path, values, rows, columns) for path, values in scores.items()}
        chosen = distribution(pooled, {path: v.shape for path, v in scores.items()}, keep)
        return {
            path: jnp.repeat(jnp.repeat(mask, rows, axis=-2), columns, axis=-1)
            for path, mask in chosen.items()
        }

    return masks


def _pool(path: str, values: jax.Array, rows: int, columns: int) -> jax.Array:
    if values.ndim < 2 or values.shape[-2] % rows or values.shape[-1] % columns:
        raise ValueError(
            f"blocks of {rows} x {columns} do not tile {path!r} of shape {values.shape}: its last "
            f"two axes must be multiples; leave it out by the rule ({path!r}, False)"
        )
    *lead, height, width = values.shape
    tiles = values.reshape(*lead, height // rows, rows, width // columns, columns)
    return tiles.sum(axis=(-3, -1))

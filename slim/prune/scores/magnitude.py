"""Scores of the weights alone, and the random one that looks at nothing."""

import jax
import jax.numpy as jnp

from slim.prune.scores.score import Score, additive

l1 = additive("l1", lambda leaf: jnp.abs(leaf.weight), lambda total: total)
"""sum |w| (Li et al. 2017, arXiv:1608.08710)."""

l2 = additive("l2", lambda leaf: jnp.square(leaf.weight), jnp.sqrt)
"""sqrt(sum w^2) (Han et al. 2015, arXiv:1506.02626; a single weight's is |w|)."""


def _lamp(squares: jax.Array) -> jax.Array:
    flat = squares.ravel()
    order = jnp.argsort(flat)
    at_least = jnp.cumsum(flat[order][::-1])[::-1]
    sums = jnp.zeros_like(flat).at[order].set(at_least).reshape(squares.shape)
    # Divided in place, so that sharded weights have their scores where they are.
    return jnp.where(sums > 0, squares / jnp.where(sums > 0, sums, 1.0), 0.0)


lamp = Score(
    name="lamp",
    needs=(),
    terms=lambda leaf: (jnp.square(leaf.weight).sum(axis=1),),
    finish=_lamp,
    weights=lambda leaf: _lamp(jnp.square(leaf.weight)),
)
"""w^2 / (sum of w'^2 over the tensor's weights w' at least as large) (Lee et al. 2021,
arXiv:2010.07611). Ranks weights of different tensors globally; of units, by their norms."""

random = additive(
    "random",
    # Of the weight too: scores are where it is, and NaN where it is.
    lambda leaf: jnp.where(jnp.isnan(leaf.weight), jnp.nan, leaf["key"]),
    lambda total: total,
    needs=("key",),
)
"""Uniform in [0, 1): the baseline that every other score must beat."""

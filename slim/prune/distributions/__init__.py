"""Distributions by name: how one keep ratio becomes a mask for every tensor.

A new one is a function `(scores, shapes, keep) -> masks` in this folder and its place in
`DISTRIBUTIONS`: `scores` and `masks` by path, `shapes` those of the weights (scores may be pooled
over blocks and so be smaller), `keep` a scalar in (0, 1], possibly traced.

Every distribution keeps exactly the number of scores it says. That number may be 0 for a tensor:
global ranking may empty one, and a network with a residual path lives on. `density` shows it.
"""

from collections.abc import Callable, Mapping

import jax

from slim.prune.distributions.erk import erk
from slim.prune.distributions.ranked import global_, per_output, uniform

Distribution = Callable[
    [Mapping[str, jax.Array], Mapping[str, tuple[int, ...]], jax.Array | float],
    dict[str, jax.Array],
]

DISTRIBUTIONS: dict[str, Distribution] = {
    "uniform": uniform,
    "global": global_,
    "erk": erk,
    "per_output": per_output,
}

__all__ = ["DISTRIBUTIONS", "Distribution", "erk", "global_", "per_output", "uniform"]

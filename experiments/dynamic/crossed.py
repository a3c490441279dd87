"""One run in which every example meets the setting that was fitted without it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.dynamic import Criterion

PyTree = Any

HALVES_SEED = 0
"""Who is in which half; the same in every run."""


class Given(NamedTuple):
    """The setting of a `crossed` criterion.

    Attributes:
        number: of each example in the whole split, `(examples,)`.
        half: that it is in, 0 or 1, `(examples,)`.
        settings: for the examples of either half, fitted on the other.
    """

    number: np.ndarray
    half: np.ndarray
    settings: tuple[PyTree, PyTree]


def halves(count: int) -> np.ndarray:
    """Which half each example is in: int32 `(count,)`, as many of both as can be.

    >>> halves(5).tolist()
    [0, 0, 1, 0, 1]
    """
    order = np.random.default_rng(HALVES_SEED).permutation(count)
    return (order % 2).astype(np.int32)


def crossed(criterion: Criterion) -> Criterion:
    """The criterion with either half's own setting; its setting is a `Given`."""

    def init(given: Given, examples: jax.Array) -> PyTree:
        number = jnp.asarray(given.number)[examples]
        states = tuple(criterion.init(setting, number) for setting in given.settings)
        return jnp.asarray(given.half)[examples], states

    def step(given: Given, state: PyTree, logits: jax.Array) -> tuple[PyTree, jax.Array]:
        half, states = state
        pairs = [
            criterion.step(setting, each, logits)
            for setting, each in zip(given.settings, states, strict=True)
        ]
        (first, leaves), (second, others_leave) = pairs
        return (half, (first, second)), jnp.where(half == 0, leaves, others_leave)

    return Criterion(init, step)

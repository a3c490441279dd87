"""What early exit gives, from the logits of all exits: the oracle of what runs fewer of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.dynamic.criteria import Criterion

PyTree = Any
Array = jax.Array | np.ndarray


class Exited(NamedTuple):
    """Where examples left, and with what.

    Attributes:
        exit: int32 `(batch,)`, from 0.
        logits: of that exit, `(batch, classes)`.
    """

    exit: Array
    logits: Array


class Passing(NamedTuple):
    """Examples on their way.

    Attributes:
        exited: of those that have left; of the others the exit that they were at last.
        gone: who has left, bool `(batch,)`.
        state: the criterion's.
    """

    exited: Exited
    gone: jax.Array
    state: PyTree


def first_exit(
    criterion: Criterion, setting: PyTree, examples: jax.Array, logits: jax.Array
) -> Passing:
    """After the first exit, of these logits."""
    state, leave = criterion.step(setting, criterion.init(setting, examples), logits)
    return Passing(Exited(jnp.zeros(examples.shape, jnp.int32), logits), leave, state)


def next_exit(
    criterion: Criterion, setting: PyTree, passing: Passing, logits: jax.Array
) -> Passing:
    """After one more: those who have left keep what they left with."""
    state, leave = criterion.step(setting, passing.state, logits)
    exited = Exited(
        jnp.where(passing.gone, passing.exited.exit, passing.exited.exit + 1),
        jnp.where(passing.gone[:, None], passing.exited.logits, logits),
    )
    return Passing(exited, passing.gone | leave, state)


def simulate(
    criterion: Criterion,
    setting: PyTree,
    logits: Sequence[jax.Array] | jax.Array,
    examples: jax.Array | None = None,
) -> Exited:
    """Where a criterion lets each example leave. Pure; over settings by `jax.vmap`.

    Args:
        criterion: one of `CRITERIA`.
        setting: its setting.
        logits: of every exit and last the network's own, `(exits, batch, classes)`.
        examples: their numbers int32 `(batch,)`; by default from 0.

    >>> from slim.dynamic.criteria import CRITERIA
    >>> logits = jnp.array([[[0.0, 1.0], [3.0, 0.0]], [[5.0, 0.0], [0.0, 9.0]]])
    >>> simulate(CRITERIA["confidence"], 0.9, logits).exit.tolist()
    [1, 0]
    """
    first, *rest = logits
    numbers = jnp.arange(first.shape[0]) if examples is None else examples
    passing = first_exit(criterion, setting, numbers, first)
    for each in rest:
        passing = next_exit(criterion, setting, passing, each)
    return passing.exited

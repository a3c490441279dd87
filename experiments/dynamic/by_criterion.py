"""Leaving by a criterion that is asked at one exit after the other."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import JsonValue

from experiments.dynamic.crossed import Given
from experiments.dynamic.method import Pair, Ran, Taken, cheapest, in_order, joined, shown
from experiments.dynamic.subject import Subject
from slim.dynamic import CRITERIA, Exited, fit_thresholds, simulate

STEPS = 64  # scores and probabilities that are tried
PER_HALVING = 4  # of them while what is left to certainty halves

_simulate = jax.jit(simulate, static_argnums=0)


def candidates(name: str, exits: int) -> list[Any]:
    """The settings of a criterion from the costliest on; none depends on the data.

    Scores, which are at most 1, get 1 - 2^(-k / 4), from nobody leaves early to all do at once.

    >>> candidates("patience", 3), candidates("confidence", 3)[-2:]
    ([2, 1, 0], [0.1591..., 0.0])
    """
    if CRITERIA[name].score is not None:
        steps = np.arange(STEPS, -1, -1) / PER_HALVING
        return [np.inf, *(1 - 2.0**-steps).tolist()]
    if name == "random":
        return [(jax.random.key(0), share) for share in np.linspace(0, 1, STEPS + 1).tolist()]
    return list(range(exits - 1, -1, -1))


@dataclasses.dataclass(frozen=True, eq=False)
class ByCriterion:
    """One setting for all exits.

    Attributes:
        subject: what is tried.
        name: of `CRITERIA`.
    """

    subject: Subject
    name: str

    @cached_property
    def settings(self) -> list[Any]:
        """All that are tried."""
        return candidates(self.name, len(self.subject.logits))

    @cached_property
    def _right(self) -> np.ndarray:
        """`(settings, examples)`."""
        return np.stack([self.subject.right(each.logits) for each in self.sweep()])

    def choose(self, tolerance: float) -> Pair:
        """See `Method`."""
        full = self.subject.right(self.subject.full_logits)

        def on(rows: np.ndarray) -> Any:
            return self.settings[cheapest(self._right[:, rows], full[rows], tolerance)]

        return on(self.subject.fitted_on(0)), on(self.subject.fitted_on(1))

    def taken(self, pair: Pair) -> Taken:
        """See `Method`."""
        subject = self.subject
        each = [self._simulated(setting) for setting in pair]
        exits = np.where(subject.half == 0, each[0].exit, each[1].exit)
        numbers = np.arange(len(exits))
        return Taken(exits, subject.logits[exits, numbers], subject.macs[exits, numbers])

    def sweep(self) -> Iterator[Taken]:
        """See `Method`."""
        return (self.taken((setting, setting)) for setting in self.settings)

    def run(self, pair: Pair) -> Callable[[], Ran]:
        """See `Method`."""
        subject, batched = self.subject, self.subject.batched[self.name]
        given = [self._given(pair, bucket.numbers) for bucket in subject.buckets]

        def call() -> Ran:
            ran = [
                _host(batched(subject.model.variables, setting, bucket.inputs)[0])
                for setting, bucket in zip(given, subject.buckets, strict=True)
            ]
            return in_order(subject.buckets, ran)

        return call

    def single(self, pair: Pair, numbers: np.ndarray) -> Callable[[], Ran]:
        """See `Method`."""
        program, variables = self.subject.conditional[self.name], self.subject.model.variables
        ones = self.subject.one_by_one(numbers)
        given = [self._given(pair, one.numbers) for one in ones]
        return lambda: joined(
            [
                _host(program(variables, setting, one.inputs))
                for setting, one in zip(given, ones, strict=True)
            ]
        )

    def answers(self) -> np.ndarray:
        """See `Method`."""
        return self.subject.logits

    def show(self, setting: Any) -> JsonValue:
        """See `Method`; of random exits the probability, and None where nobody leaves."""
        return shown(setting[1] if self.name == "random" else setting)

    def _simulated(self, setting: Any) -> Exited:
        found = _simulate(CRITERIA[self.name], setting, self.subject.logits)
        return jax.tree.map(np.asarray, found)

    def _given(self, pair: Pair, numbers: np.ndarray) -> Given:
        settings: Pair = pair
        if CRITERIA[self.name].score is not None:
            # In the form of learned thresholds, which then run in the same programs.
            exits = (len(self.subject.logits),)
            first, second = (np.broadcast_to(np.float32(each), exits) for each in pair)
            settings = first, second
        return Given(numbers.astype(np.int32), self.subject.half[numbers], settings)


def _host(exited: Exited) -> Ran:
    return np.asarray(exited.exit), np.asarray(exited.logits)


@dataclasses.dataclass(frozen=True, eq=False)
class Learned(ByCriterion):
    """A threshold for each exit: `slim.dynamic.fit_thresholds`."""

    def choose(self, tolerance: float) -> Pair:
        """See `Method`; the network's own classifier may be worse than the full network already."""
        subject, score = self.subject, CRITERIA[self.name].score
        assert score is not None
        right = subject.right(subject.logits)
        scores = jnp.stack([score(jnp.asarray(logits)) for logits in subject.logits[:-1]])
        gained = right[-1].astype(int) - subject.right(subject.full_logits)

        def on(rows: np.ndarray) -> np.ndarray:
            allowed = min(1.0, max(0.0, tolerance + float(gained[rows].mean())))
            return np.asarray(fit_thresholds(scores[:, rows], jnp.asarray(right[:, rows]), allowed))

        return on(subject.fitted_on(0)), on(subject.fitted_on(1))

    def sweep(self) -> Iterator[Taken]:
        """See `Method`: none, since its settings follow from the tolerance."""
        return iter(())

    def show(self, setting: Any) -> JsonValue:
        """See `Method`: of each exit but the last, None where nobody leaves."""
        return [shown(each) for each in setting[:-1]]

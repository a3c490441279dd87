"""Depth chosen from a text's complexity before it is computed."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import JsonValue

from experiments.dynamic.batches import straight
from experiments.dynamic.method import Bucketwise, Pair, Ran, Taken, cheapest
from experiments.dynamic.subject import Bucket
from slim.dynamic import (
    Complexity,
    LayerPlan,
    Vocabulary,
    assign,
    fit_complexity,
    fit_plan,
    fit_weights,
    measure_complexity,
    prefixes,
    score_complexity,
)

PyTree = Any

BUDGETS = 24  # mean costs that are tried

_measure = jax.jit(measure_complexity)
_score = jax.jit(score_complexity)


def _ranks(state: Complexity, name: str, ids: np.ndarray) -> jax.Array:
    return _measure(state, ids)[name]


class Planner(NamedTuple):
    """What is known before a text is run: its complexity, and how deep it goes."""

    state: Complexity
    plan: LayerPlan


@dataclasses.dataclass(frozen=True, eq=False)
class ByComplexity(Bucketwise):
    """Texts run to the depth that their complexity asks for, those of one depth together.

    Measures are weighed by where the first exit differs from the last in being right, plans fitted
    by the exits' right answers; both on one half, for the other.

    Attributes:
        subject: what is tried.
        train: ids of the training texts, which measures are ranked among.
        vocabulary: what ids mean.
    """

    train: np.ndarray
    vocabulary: Vocabulary

    @cached_property
    def planners(self) -> tuple[list[Planner], list[Planner]]:
        """For either half, from the costliest on."""
        subject = self.subject
        right, macs = subject.right(subject.logits), subject.macs
        equal = fit_complexity(self.train, self.vocabulary)
        ranks = {
            name: self._everywhere(partial(_ranks, equal, name)) for name in equal.distributions
        }

        def fitted(half: int) -> list[Planner]:
            rows = subject.fitted_on(half)
            of_rows = {name: values[rows] for name, values in ranks.items()}
            weights = fit_weights(of_rows, ~right[0, rows] & right[-1, rows])
            state = fit_complexity(self.train, self.vocabulary, weights)
            complexity = self._everywhere(partial(_score, state))[rows]
            costs = macs[:, rows].mean(1)
            found = []
            for budget in np.linspace(costs[-1], costs[0], BUDGETS):
                # Of sums of buckets' shares: not above the budget by more than rounding.
                plan = fit_plan(
                    complexity, right[:, rows].T, prefixes(len(costs)), costs, budget * (1 + 1e-9)
                )
                found.append(Planner(state, plan))
            return found

        return fitted(0), fitted(1)

    def choose(self, tolerance: float) -> Pair:
        """See `Method`."""
        subject, full = self.subject, self.subject.right(self.subject.full_logits)

        def on(half: int) -> Planner:
            rows = subject.fitted_on(half)
            taken = [self.taken((each, each)) for each in self.planners[half]]
            right = np.stack([subject.right(each.logits)[rows] for each in taken])
            return self.planners[half][cheapest(right, full[rows], tolerance)]

        return on(0), on(1)

    def taken(self, pair: Pair) -> Taken:
        """See `Method`."""
        subject, exits = self.subject, np.zeros(len(self.subject.labels), np.int32)
        for bucket in subject.buckets:
            exits[bucket.numbers] = self._chosen(pair, bucket)
        numbers = np.arange(len(exits))
        return Taken(exits, subject.logits[exits, numbers], subject.macs[exits, numbers])

    def sweep(self) -> Iterator[Taken]:
        """See `Method`."""
        return (self.taken(pair) for pair in zip(*self.planners, strict=True))

    def answers(self) -> np.ndarray:
        """See `Method`."""
        return self.subject.logits

    def show(self, setting: Planner) -> JsonValue:
        """See `Method`."""
        weights = {name: round(float(each), 4) for name, each in setting.state.weights.items()}
        return {
            "edges": list(setting.plan.edges),
            "exits": list(setting.plan.options),
            "weights": dict(weights),
        }

    def run_bucket(self, pair: Pair, bucket: Bucket, sizes: Sequence[int]) -> Ran:
        """See `Bucketwise`."""
        exits = self._chosen(pair, bucket)
        logits = np.zeros((len(exits), self.subject.logits.shape[-1]), np.float32)
        for exit in np.unique(exits):
            rows = np.flatnonzero(exits == exit)
            program, variables = self._programs[exit], self.subject.model.variables
            logits[rows] = straight(program, variables, bucket.inputs[rows], sizes)
        return exits, logits

    def _chosen(self, pair: Pair, bucket: Bucket) -> np.ndarray:
        half = self.subject.half[bucket.numbers]
        exits = np.zeros(len(half), np.int32)
        for each in np.unique(half):
            state, plan = pair[each]
            chosen = np.asarray(assign(plan, _score(state, bucket.inputs)))
            exits[half == each] = chosen[half == each]
        return exits

    @cached_property
    def _programs(self) -> list[Callable[..., jax.Array]]:
        """Of each depth the network up to there, without a stop."""
        subject = self.subject

        def upto(exit: int) -> Callable[..., jax.Array]:
            def fn(variables: PyTree, inputs: jax.Array) -> jax.Array:
                carried = subject.segments.enter(inputs)
                for part in subject.segments.at(variables, inputs)[: exit + 1]:
                    logits, carried = part(variables, carried)
                return logits

            return jax.jit(fn)

        return [upto(exit) for exit in range(len(subject.logits))]

    def _everywhere(self, values: Callable[[np.ndarray], jax.Array]) -> np.ndarray:
        """A number of each text, `(examples,)`."""
        found = np.zeros(len(self.subject.labels), np.float32)
        for bucket in self.subject.buckets:
            found[bucket.numbers] = values(bucket.inputs)
        return found

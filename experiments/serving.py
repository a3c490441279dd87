"""Serving examples as they arrive, by one server that runs one variant of a network at a time.

What has arrived waits, the oldest first; the server takes as many as a call may have, runs the
variant that its policy chooses, and looks again. Latency is from an example's arrival until its
call has ended.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np

from slim.dynamic import Choice, Variant, choose_variant

RECENT = 5  # calls whose times say how much slower the machine is now than when it was measured


class Policy(Protocol):
    """Chooses the variant of the next call."""

    def __call__(self, state: Choice, left: float, waiting: int, slowdown: float) -> Choice:
        """The next choice.

        Args:
            state: the last one.
            left: seconds that the oldest example has left of the target; may be negative.
            waiting: examples.
            slowdown: how much longer calls take now than was measured, by a factor.
        """


class Served(NamedTuple):
    """One call.

    Attributes:
        variant: what was run.
        first: its oldest example, by the place among the arrivals.
        examples: how many.
        began: seconds after the first moment.
        ended: seconds after the first moment.
    """

    variant: str
    first: int
    examples: int
    began: float
    ended: float


@dataclass(frozen=True)
class Adaptive:
    """The most accurate variant that is in time, by `choose_variant`; the fastest if none is."""

    table: Mapping[str, Variant]
    margin: float
    patience: int

    def __call__(self, state: Choice, left: float, waiting: int, slowdown: float) -> Choice:
        """See `Policy`."""
        seconds = {name: slowdown * each.expected(waiting) for name, each in self.table.items()}
        fastest = min(seconds, key=lambda name: seconds[name])
        if seconds[fastest] > left:
            return Choice(fastest)
        return choose_variant(
            self.table,
            left,
            waiting,
            state,
            slowdown=slowdown,
            margin=self.margin,
            patience=self.patience,
        )


@dataclass(frozen=True)
class Always:
    """One variant, whatever the load."""

    variant: str

    def __call__(self, state: Choice, left: float, waiting: int, slowdown: float) -> Choice:
        """See `Policy`."""
        return Choice(self.variant)


def arrivals(rates: Sequence[float], seconds: float, seed: int) -> np.ndarray:
    """When examples arrive, in seconds, ascending: a Poisson process.

    Args:
        rates: examples a second, in phases one after the other.
        seconds: of each phase.
        seed: of the times.
    """
    random = np.random.default_rng(seed)
    phases = [
        random.uniform(i * seconds, (i + 1) * seconds, random.poisson(rate * seconds))
        for i, rate in enumerate(rates)
    ]
    return np.sort(np.concatenate(phases))


def serve(
    times: np.ndarray,
    run: Callable[[str, int, int], object],
    table: Mapping[str, Variant],
    target: float,
    policy: Policy,
    *,
    most: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Served]:
    """Serves all examples, in the time that it takes.

    Args:
        times: of the arrivals, ascending, in seconds.
        run: `run(variant, first, count)` computes so many examples from the `first` arrival on, and
            returns when it has.
        table: what was measured of the variants.
        target: seconds from an example's arrival until its call has ended.
        policy: chooses.
        most: examples in a call.
        clock: seconds.
        sleep: until so many have passed.

    Returns:
        The calls, in order.
    """
    state, calls = Choice(), list[Served]()
    ratios: deque[float] = deque(maxlen=RECENT)
    start, done = clock(), 0
    while done < len(times):
        now = clock() - start
        waiting = int(np.searchsorted(times, now, side="right")) - done
        if not waiting:
            sleep(times[done] - now)
            continue
        slowdown = median(ratios) if ratios else 1.0
        state = policy(state, target - (now - times[done]), waiting, slowdown)
        assert state.variant is not None
        count = min(waiting, most)
        run(state.variant, done, count)
        ended = clock() - start
        calls.append(Served(state.variant, done, count, now, ended))
        ratios.append((ended - now) / table[state.variant].expected(count))
        done += count
    return calls


def latencies(times: np.ndarray, calls: Sequence[Served]) -> np.ndarray:
    """Of every example, in seconds, in the order of arrival."""
    ended = np.repeat([call.ended for call in calls], [call.examples for call in calls])
    return ended - times[: len(ended)]

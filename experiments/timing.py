"""Latency of calls timed in turn, so that whatever else the machine does hits all of them alike.

Timing one model after the other compares the machine's minutes as much as the models: clocks,
neighbours and temperature drift. `in_turn` interleaves the calls, A B A B ..., and `ratio` compares
samples of the same round.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any

import jax
import numpy as np

Clock = Callable[[int], float]

SHORTEST_SAMPLE_S = 1e-3  # far above the clock's resolution and the cost of reading it


@dataclass(frozen=True)
class Latency:
    """How long one call takes, from its start until its results are ready.

    Attributes:
        samples_s: seconds a call, one sample a round; the mean of `repeats` calls each.
        repeats: calls in a sample: 1, or as many as reach about a millisecond.
    """

    samples_s: tuple[float, ...]
    repeats: int

    @property
    def median_s(self) -> float:
        """The median sample in seconds."""
        return float(np.median(self.samples_s))

    @property
    def p90_s(self) -> float:
        """The 90th percentile of the samples in seconds, interpolated linearly."""
        return float(np.percentile(self.samples_s, 90))

    def ratio(self, baseline: "Latency") -> float:
        """Median over rounds of this sample over the baseline's; below 1 is faster than it.

        Both must come from one `in_turn`: a round's two samples were taken side by side, so a
        slow minute cancels, which it does not in the quotient of the two medians.

        Raises:
            ValueError: the two have different numbers of samples.

        >>> Latency((1.0, 2.0, 9.0), 1).ratio(Latency((2.0, 4.0, 9.0), 1))
        0.5
        """
        pairs = zip(self.samples_s, baseline.samples_s, strict=True)
        return float(np.median([mine / other for mine, other in pairs]))


def in_turn(
    calls: Mapping[str, Callable[[], Any]],
    *,
    warmup: int = 3,
    rounds: int = 30,
    min_seconds: float = 0.0,
) -> dict[str, Latency]:
    """Times each call once a round, in order, each until its results are ready.

    Args:
        calls: functions without arguments; what they return is waited for, asynchronous
            dispatch or not.
        warmup: calls of each before any counts; the first compiles.
        rounds: samples of each call, at least.
        min_seconds: rounds go on until this many seconds have been sampled in all.

    Returns:
        Each call's latency, in the order of `calls`, all with equally many samples.

    Raises:
        ValueError: `calls` is empty, or `warmup` or `rounds` is below 1.

    >>> times = in_turn({"few": lambda: sum(range(9)), "many": lambda: sum(range(9999))}, rounds=5)
    >>> times["few"].median_s < times["many"].median_s
    True
    """
    clocks = {name: partial(_seconds, call) for name, call in calls.items()}
    return clocked_in_turn(clocks, warmup=warmup, rounds=rounds, min_seconds=min_seconds)


def clocked_in_turn(
    clocks: Mapping[str, Clock],
    *,
    warmup: int = 3,
    rounds: int = 30,
    min_seconds: float = 0.0,
    sample_seconds: float = SHORTEST_SAMPLE_S,
) -> dict[str, Latency]:
    """`in_turn` of calls that are clocked elsewhere, such as in processes of their own.

    Args:
        clocks: number of calls -> the seconds that they take, one after the other.
        warmup: as for `in_turn`.
        rounds: likewise.
        min_seconds: likewise.
        sample_seconds: about how long a sample is at least. Processes find the caches as the one
            before them left them: in longer samples that counts for less.

    Raises:
        ValueError: `clocks` is empty, or `warmup` or `rounds` is below 1.
    """
    if not clocks:
        raise ValueError("calls is empty: give at least one named function to time")
    for field, value in (("warmup", warmup), ("rounds", rounds)):
        if value < 1:
            raise ValueError(f"{field} = {value} must be at least 1")
    for clock in clocks.values():
        clock(warmup)
    repeats = {name: _repeats(clock, sample_seconds) for name, clock in clocks.items()}
    samples: dict[str, list[float]] = {name: [] for name in clocks}
    sampled_s = 0.0
    while len(next(iter(samples.values()))) < rounds or sampled_s < min_seconds:
        for name, clock in clocks.items():
            seconds = clock(repeats[name])
            samples[name].append(seconds / repeats[name])
            sampled_s += seconds
    return {name: Latency(tuple(samples[name]), repeats[name]) for name in clocks}


def _seconds(call: Callable[[], Any], count: int) -> float:
    """Seconds that `count` calls take, each finished before the next starts."""
    start = perf_counter_ns()
    for _ in range(count):
        jax.block_until_ready(call())
    return (perf_counter_ns() - start) / 1e9


def _repeats(clock: Clock, sample_seconds: float) -> int:
    """How many calls make a sample of at least about so long."""
    count = 1
    while (seconds := clock(count)) < sample_seconds:
        count = max(2 * count, math.ceil(count * sample_seconds / max(seconds, 1e-9)))
    return count

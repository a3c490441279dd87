"""Schedules by name: a temperature, or the weight of a loss in the mixture, at each step.

    temperature = SCHEDULES["linear"](8.0, 1.0, begin=0, end=1000)
    check_temperature(temperature)
    soft_targets.value(student, teacher, temperature=temperature.value(step))

Before `begin` it is the first value, from `end` on the last. A new schedule is a function
-> `Schedule` and its place in `SCHEDULES`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Step = jax.Array | int


class Schedule(NamedTuple):
    """A pure function of the step, and the values between which it stays.

    Attributes:
        value: step, which may be traced -> float32 scalar.
        low: the least value it has.
        high: the greatest.
    """

    value: Callable[[Step], jax.Array]
    low: float
    high: float


def constant(value: float) -> Schedule:
    """The same at every step.

    >>> float(constant(4.0).value(10))
    4.0
    """
    return _between(value, value, 0, 0, lambda progress: progress)


def linear(first: float, last: float, *, begin: int = 0, end: int) -> Schedule:
    """First + (last - first) p, p the share of [begin, end] that is over.

    From a high temperature down to 1: annealing KD (Jafari et al. 2021, arXiv:2104.07163).

    >>> [float(linear(8.0, 1.0, end=100).value(step)) for step in (0, 50, 200)]
    [8.0, 4.5, 1.0]
    """
    return _between(first, last, begin, end, lambda progress: progress)


def cosine(first: float, last: float, *, begin: int = 0, end: int) -> Schedule:
    """First + (last - first) (1 - cos(pi p)) / 2: slow, fast, slow."""
    return _between(first, last, begin, end, lambda progress: (1 - jnp.cos(jnp.pi * progress)) / 2)


def geometric(first: float, last: float, *, begin: int = 0, end: int) -> Schedule:
    """First (last / first)^p: the same factor each step.

    Raises:
        ValueError: an end that is not positive.

    >>> [round(float(geometric(8.0, 2.0, end=100).value(step)), 4) for step in (0, 50, 200)]
    [8.0, 4.0, 2.0]
    """
    if not (first > 0 and last > 0):
        raise ValueError(f"geometric from {first} to {last}: both must be positive; use linear")
    logarithm = _between(math.log(first), math.log(last), begin, end, lambda progress: progress)
    return Schedule(
        lambda step: jnp.exp(logarithm.value(step)), low=min(first, last), high=max(first, last)
    )


def check_temperature(schedule: Schedule) -> None:
    """Raise ValueError unless it stays positive."""
    if schedule.low <= 0:
        raise ValueError(
            f"a temperature from {schedule.low} to {schedule.high}: it must stay positive"
        )


def check_mixture(schedule: Schedule) -> None:
    """Raise ValueError unless it stays in [0, 1]: the share of one loss in a mixture of two."""
    if schedule.low < 0 or schedule.high > 1:
        raise ValueError(
            f"a mixture from {schedule.low} to {schedule.high}: it must stay in [0, 1]"
        )


def _between(
    first: float, last: float, begin: int, end: int, curve: Callable[[jax.Array], jax.Array]
) -> Schedule:
    if not 0 <= begin <= end:
        raise ValueError(f"schedule begin={begin}, end={end}: need 0 <= begin <= end, in steps")
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"schedule from {first} to {last}: both must be finite")

    def value(step: Step) -> jax.Array:
        # Elapsed in integers: float32 holds steps beyond 2^24 only roughly.
        elapsed = jnp.clip(jnp.asarray(step, jnp.int32), begin, end) - begin
        progress = elapsed.astype(jnp.float32) / max(end - begin, 1)
        # The ends exactly; an empty window is over as soon as it begins.
        between = jnp.float32(first) + jnp.float32(last - first) * curve(progress)
        return jnp.where(jnp.asarray(step, jnp.int32) >= end, jnp.float32(last), between)

    return Schedule(value, low=min(first, last), high=max(first, last))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "geometric": geometric,
}

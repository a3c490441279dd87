"""Schedules by name: which share of the weights is kept at which step, and when masks are renewed.

A step is whatever the caller counts: optimizer steps in `sparsify`, rounds of pruning and
fine-tuning in a recipe. A new schedule is a function `(keep, window) -> Schedule` and its place in
`SCHEDULES`; `keep` is the final ratio.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.prune.ratio import check_keep

Step = jax.Array | int


class Schedule(NamedTuple):
    """Two pure functions of the step, which may be traced.

    Attributes:
        keep: step -> keep ratio, a float32 scalar in (0, 1].
        due: step -> whether the masks are computed anew at this step.
    """

    keep: Callable[[Step], jax.Array]
    due: Callable[[Step], jax.Array]


class Window(NamedTuple):
    """When masks may change: at `begin`, every `every` steps after it, and at `end`.

    >>> Window(begin=0, end=1000, every=100)
    Window(begin=0, end=1000, every=100)
    """

    begin: int = 0
    end: int = 0
    every: int = 1

    def due(self, step: Step) -> jax.Array:
        """Whether masks change at `step`."""
        step = jnp.asarray(step, jnp.int32)
        inside = (step >= self.begin) & (step <= self.end)
        return inside & (((step - self.begin) % self.every == 0) | (step == self.end))

    def progress(self, step: Step) -> jax.Array:
        """Share of the window that lies behind `step`, float32 in [0, 1]."""
        step = jnp.asarray(step, jnp.int32)
        elapsed = jnp.clip(step, self.begin, self.end) - self.begin
        # An empty window is over as soon as it begins.
        share = elapsed.astype(jnp.float32) / max(self.end - self.begin, 1)
        return jnp.where(step >= self.end, 1.0, share)

    def check(self) -> None:
        """Raise ValueError unless 0 <= begin <= end and every >= 1."""
        if not 0 <= self.begin <= self.end:
            raise ValueError(
                f"window begin={self.begin}, end={self.end}: need 0 <= begin <= end, in steps"
            )
        if self.every < 1:
            raise ValueError(f"window every={self.every}: must be at least 1 step")


def one_shot(keep: float, window: Window) -> Schedule:
    """Everything at once: dense before `window.begin`, `keep` from there on."""
    begin = window.begin
    _check(keep, Window(begin, begin))
    return Schedule(
        keep=lambda step: jnp.where(jnp.asarray(step) < begin, 1.0, jnp.float32(keep)),
        due=lambda step: jnp.asarray(step) == begin,
    )


def cubic(keep: float, window: Window) -> Schedule:
    """Sparsity s_f (1 - (1 - (t - begin) / (end - begin))^3), fast first, slow at the end.

    Zhu and Gupta 2017, arXiv:1710.01878, with initial sparsity 0 and s_f = 1 - keep.

    >>> schedule = cubic(0.2, Window(begin=0, end=100, every=10))
    >>> [round(float(schedule.keep(step)), 3) for step in (0, 50, 100)]
    [1.0, 0.3, 0.2]
    """
    return _curve(keep, window, lambda progress: (1 - progress) ** 3)


def cosine(keep: float, window: Window) -> Schedule:
    """Keep ratio falling from 1 to `keep` by half a cosine: slow, fast, slow."""
    return _curve(keep, window, lambda progress: (1 + jnp.cos(jnp.pi * progress)) / 2)


def periodic(keep: float, window: Window) -> Schedule:
    """The final ratio from `begin` on, which weights it keeps renewed all through the window."""
    _check(keep, window)
    return Schedule(keep=one_shot(keep, window).keep, due=window.due)


def progressive(
    keep: float, window: Window, *, first: float = 0.9, decrement: float = 0.05
) -> Schedule:
    """Keep `first` at `begin`, then `decrement` less each `every` steps, down to `keep`.

    Raises:
        ValueError: the window is too short to get down to `keep`.

    >>> schedule = progressive(0.4, Window(begin=0, end=10))
    >>> [round(float(schedule.keep(round_)), 2) for round_ in (0, 1, 2, 10)]
    [0.9, 0.85, 0.8, 0.4]
    """
    _check(keep, window)
    check_keep(first, "first keep ratio")
    if decrement <= 0:
        raise ValueError(f"decrement is {decrement}, must be positive: what each round takes off")
    rounds = max(0, math.ceil((first - keep) / decrement - 1e-6))
    last = window.begin + rounds * window.every
    if last > window.end:
        raise ValueError(
            f"window begin={window.begin}, end={window.end}, every={window.every} is too short: "
            f"from {first} to {keep} by {decrement} takes {rounds} rounds, so end must be at "
            f"least {last}"
        )

    def ratio(step: Step) -> jax.Array:
        rounds_done = (jnp.asarray(step, jnp.int32) - window.begin) // window.every
        falling = jnp.float32(first) - jnp.float32(decrement) * rounds_done.astype(jnp.float32)
        return jnp.where(rounds_done < 0, 1.0, jnp.maximum(falling, jnp.float32(keep)))

    return Schedule(keep=ratio, due=window._replace(end=last).due)


def _curve(keep: float, window: Window, left: Callable[[jax.Array], jax.Array]) -> Schedule:
    """Keep ratio keep + (1 - keep) * left(progress), dense before the window."""
    _check(keep, window)

    def ratio(step: Step) -> jax.Array:
        return jnp.float32(keep) + jnp.float32(1 - keep) * left(window.progress(step))

    return Schedule(keep=ratio, due=window.due)


def _check(keep: float, window: Window) -> None:
    check_keep(keep)
    window.check()


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "one_shot": one_shot,
    "cubic": cubic,
    "cosine": cosine,
    "periodic": periodic,
    "progressive": progressive,
}

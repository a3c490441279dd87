"""What a way of leaving early is, and how its setting is chosen."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydantic import JsonValue

from experiments.dynamic.subject import Bucket, Subject

PyTree = Any
Pair = tuple[Any, Any]
"""A setting for the examples of either half, fitted on the other."""
Ran = tuple[np.ndarray, np.ndarray]
"""Exits `(examples,)` and logits `(examples, classes)`."""


class Taken(NamedTuple):
    """What all examples get.

    Attributes:
        exit: where they leave, from 0, `(examples,)`.
        logits: `(examples, classes)`.
        macs: multiply-accumulates, `(examples,)`.
    """

    exit: np.ndarray
    logits: np.ndarray
    macs: np.ndarray


class Method(Protocol):
    """A way of leaving early, on one `Subject`."""

    def choose(self, tolerance: float) -> Pair:
        """The cheapest setting that loses no more, on the half that it is not for."""

    def taken(self, pair: Pair) -> Taken:
        """What it comes to, from the logits of all exits."""

    def sweep(self) -> Iterator[Taken]:
        """The same over all settings, from the costliest on."""

    def run(self, pair: Pair) -> Callable[[], Ran]:
        """A call that runs all examples, in batches."""

    def single(self, pair: Pair, numbers: np.ndarray) -> Callable[[], Ran]:
        """A call that runs some one by one."""

    def answers(self) -> np.ndarray:
        """What an example might get: logits `(exits, examples, classes)`."""

    def show(self, setting: Any) -> JsonValue:
        """A setting for the record."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bucketwise(abc.ABC):
    """What a `Method` that runs one bucket after the other shares.

    Attributes:
        subject: what is tried.
    """

    subject: Subject

    @abc.abstractmethod
    def run_bucket(self, pair: Pair, bucket: Bucket, sizes: Sequence[int]) -> Ran:
        """Runs the examples of a bucket in batches of `sizes`."""

    def run(self, pair: Pair) -> Callable[[], Ran]:
        """See `Method`."""
        subject = self.subject
        return lambda: in_order(
            subject.buckets,
            [self.run_bucket(pair, each, subject.sizes) for each in subject.buckets],
        )

    def single(self, pair: Pair, numbers: np.ndarray) -> Callable[[], Ran]:
        """See `Method`."""
        ones = self.subject.one_by_one(numbers)
        return lambda: joined([self.run_bucket(pair, each, (1,)) for each in ones])


def shown(number: float | int) -> float | int | None:
    """A number for the record; None for an infinite one, that no score reaches.

    >>> shown(2), shown(0.1234567), shown(float("inf"))
    (2, 0.123457, None)
    """
    if isinstance(number, int):
        return number
    return round(float(number), 6) if np.isfinite(number) else None


def joined(ran: Sequence[Ran]) -> Ran:
    """Several runs one after the other."""
    exits, logits = (np.concatenate(each) for each in zip(*ran, strict=True))
    return exits, logits


def in_order(buckets: Sequence[Bucket], ran: Sequence[Ran]) -> Ran:
    """Runs of buckets, the examples by number."""
    order = np.argsort(np.concatenate([bucket.numbers for bucket in buckets]))
    exits, logits = joined(ran)
    return exits[order], logits[order]


def cheapest(right: np.ndarray, full_right: np.ndarray, tolerance: float) -> int:
    """The last of the settings up to which none loses more than is tolerated.

    Settings are tried from the costliest on and the first that loses more ends it, so that luck
    with one of many does not count (fixed sequence testing; of exits by CALM, Schuster et al. 2022,
    arXiv:2207.07061). Where the costliest loses more, it is that.

    Args:
        right: whether each example is, by setting from the costliest on: `(settings, examples)`.
        full_right: by the full network, `(examples,)`.
        tolerance: share of the examples.

    >>> right = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    >>> cheapest(right, np.ones(4, bool), 0.25), cheapest(right, np.ones(4, bool), 0.0)
    (1, 0)
    """
    lost = int(full_right.sum()) - right.sum(1)
    within = np.cumprod(lost <= lost_at_most(tolerance, len(full_right)))
    return max(0, int(within.sum()) - 1)


def lost_at_most(tolerance: float, examples: int) -> int:
    """Whole examples within a share of them; 0.29 of 100 are 29.

    >>> lost_at_most(0.29, 100)
    29
    """
    return int(tolerance * examples + 1e-6)

"""What a runtime is: a function that loads an artefact, and what can then be run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np


class Session(Protocol):
    """An artefact that is loaded."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name, of all inputs by name."""


class Runtime(NamedTuple):
    """A program that runs artefacts.

    Attributes:
        name: in `RUNTIMES`.
        package: what must be importable.
        load: the artefact at a path, to be computed by so many threads.
    """

    name: str
    package: str
    load: Callable[[Path, int], Session]


def all_threads() -> int:
    """The cores that this process may use; where the system does not say, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

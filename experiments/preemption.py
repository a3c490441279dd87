"""SIGTERM as a flag that the training loop reads between steps."""

import signal
from types import FrameType
from typing import Any

import jax

from experiments import processes

# To agree, processes wait for each other and for their devices, which costs milliseconds.
# JAX's own service agrees without, but was seen to need over ten seconds on a busy machine.
AGREE_EVERY = 10


class Preempted(Exception):
    """The run was asked to stop, and has saved where it was."""


class Preemption:
    """While open, SIGTERM does not end the process but is remembered.

    Several processes agree on it at every tenth call of `reached`; they all must call it equally
    often. One that was asked is enough.
    """

    def __init__(self) -> None:
        self._asked = False
        self._agreed = False
        self._calls = 0
        self._previous: Any = None

    def reached(self) -> bool:
        """Whether to save and stop now; the same answer in every process, and for good."""
        if jax.process_count() == 1:
            return self._asked
        if not self._agreed and self._calls % AGREE_EVERY == 0:
            self._agreed = processes.anywhere(self._asked)
        self._calls += 1
        return self._agreed

    def __enter__(self) -> "Preemption":
        self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, *raised: object) -> None:
        # None where the handler before was not Python's: JAX's, of several processes.
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

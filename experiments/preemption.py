"""SIGTERM as a flag that the training loop reads between steps."""

import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop, and has saved where it was."""


class Preemption:
    """While open, SIGTERM does not end the process but is remembered.

    With several processes JAX's distributed service listens instead, and agrees with all of them
    on one step to stop at.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None

    def reached(self, step: int) -> bool:
        """Whether to save at this step and stop; the same answer in every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

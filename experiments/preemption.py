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
    on one call of `reached` to say yes at; so they must all call it equally often.
    """

    def __init__(self) -> None:
        self._asked = False
        self._calls = 0
        self._previous: Any = None

    def reached(self) -> bool:
        """Whether to save and stop now; the same answer in every process, and for good."""
        if jax.process_count() > 1 and not self._asked:
            # The service wants a number that grows from stage to stage, as steps do not.
            self._calls += 1
            self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
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

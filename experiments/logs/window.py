"""Metrics of training steps on their way from the device to the log."""

import collections
import time

import jax

from experiments.logs import RunLog
from experiments.logs.progress import Progress

# Metrics are read this many steps late, so that the device never waits for the host.
LATENESS = 2


class Window:
    """Averages metrics since the last line of the log.

    Attributes:
        failed: the step that the metrics call failed; None while all is well.
    """

    def __init__(self, log: RunLog, bar: Progress, *, batch_size: int, log_steps: int) -> None:
        self.failed: int | None = None
        self._log, self._bar = log, bar
        self._batch_size, self._log_steps = batch_size, log_steps
        self._waiting: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._sums: collections.Counter[str] = collections.Counter()
        self._count = 0
        self._since = time.monotonic()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that may still be running."""
        self._waiting.append((step, metrics))
        if len(self._waiting) > LATENESS:
            self._read()

    def drain(self) -> None:
        """Waits for all steps."""
        while self._waiting:
            self._read()

    def _read(self) -> None:
        step, metrics = self._waiting.popleft()
        values = {name: float(value) for name, value in metrics.items()}
        failed = values.pop("failed")
        if failed >= 0:
            self.failed = int(failed)
            return
        self._bar.update(step, loss=values["loss"], samples=self._batch_size)
        self._sums.update(values)
        self._count += 1
        if step % self._log_steps == 0:
            now = time.monotonic()
            means = {f"train/{name}": total / self._count for name, total in self._sums.items()}
            rate = self._count * self._batch_size / max(now - self._since, 1e-9)
            self._log.scalars(step, means | {"train/samples_per_s": rate})
            self._sums.clear()
            self._count, self._since = 0, now

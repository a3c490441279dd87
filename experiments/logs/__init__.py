"""What a stage tells the world while it runs: `metrics.jsonl`, TensorBoard, a progress line.

    with RunLog(workdir, "train", step=state.step, enabled=jax.process_index() == 0) as log:
        with log.progress(total_steps) as bar:
            for step in range(state.step + 1, total_steps + 1):
                ...
                log.scalars(step, {"train/loss": loss})
                bar.update(step, loss=loss, samples=batch_size)

Only one process of a run writes; the others call the same methods and nothing happens.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.logs.jsonl import MetricsFile
from experiments.logs.progress import Progress
from experiments.logs.tensorboard import EventFile

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class RunLog:
    """The log of one stage, in `metrics.jsonl` and `tensorboard/STAGE/` of a directory.

    A step is the number of updates done. A stage that goes on from `step` keeps what it logged up
    to and including that step, and what a dead run logged after it disappears from both; one that
    starts from step 0 loses all that an earlier run of that name logged.

    Args:
        directory: the run's directory; made where it is missing.
        stage: the stage's name, unique in the run.
        step: the step to go on from, 0 for a fresh start.
        enabled: whether this process writes; one process of a run must, the others must not.
    """

    def __init__(
        self, directory: Path | str, stage: str, *, step: int = 0, enabled: bool = True
    ) -> None:
        self._stage, self._step, self._enabled = stage, step, enabled
        self._directory = Path(directory)
        self._sinks: list[MetricsFile | EventFile] = []
        if enabled:
            with self._writing():
                self._directory.mkdir(parents=True, exist_ok=True)
                self._events = EventFile(self._directory / TENSORBOARD / stage, step)
                self._sinks = [MetricsFile(self._directory / METRICS, stage, step), self._events]

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes scalars, given as numbers or arrays of one element, by name.

        A name with a group, `train/loss`, is filed under its group by TensorBoard.
        """
        if self._enabled:
            numbers = {name: float(value) for name, value in values.items()}
            with self._writing():
                for sink in self._sinks:
                    sink.scalars(step, numbers)

    def histograms(self, step: int, group: str, tree: Any) -> None:
        """Writes a histogram of each leaf of a pytree (weights, gradients) as `group/path`.

        Args:
            step: the number of updates done.
            group: what the tree is: `weights`, `gradients`.
            tree: arrays that this process can read in full.
        """
        if self._enabled:
            with self._writing():
                self._events.histograms(step, group, tree)

    def images(self, step: int, name: str, batch: Any) -> None:
        """Writes the first images of a batch `(batch, height, width, channels)` as one picture.

        Args:
            step: the number of updates done.
            name: the picture's name.
            batch: uint8 as it is, anything else scaled from the batch's range to black and white.

        Raises:
            ValueError: `batch` does not have four dimensions.
        """
        if self._enabled:
            with self._writing():
                self._events.images(step, name, batch)

    def hparams(self, values: Mapping[str, Any], metrics: Sequence[str] = ()) -> None:
        """Writes hyperparameters, nested or flat, for TensorBoard's table of runs.

        Args:
            values: the hyperparameters.
            metrics: the names of the scalars to show beside them.
        """
        if self._enabled:
            with self._writing():
                self._events.hparams(values, metrics)

    def progress(self, total: int) -> Progress:
        """A progress line on stderr from the step that this log goes on from to `total`."""
        return Progress(total, self._stage, self._step, sys.stderr if self._enabled else None)

    def flush(self) -> None:
        """Puts all that was logged so far on the disk."""
        with self._writing():
            for sink in self._sinks:
                sink.flush()

    def close(self, *, succeeded: bool = True) -> None:
        """Flushes and closes the files; TensorBoard shows whether the stage succeeded."""
        with self._writing():
            for sink in self._sinks:
                sink.close(succeeded)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The operating system says what is wrong, on a full disk; this adds where."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._directory)) from error

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self.close(succeeded=kind is None)

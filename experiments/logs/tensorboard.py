"""TensorBoard event files, written in the caller's thread.

tensorboardX's `SummaryWriter` hands events to a thread that dies on a full disk and then blocks its
caller for ever, and its `flush` does not wait for that thread. So this writes the same records
itself: an error is raised where it happens, and what was flushed is on the disk.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from slim import paths

FLUSH_SECONDS = 1.0
BINS = 64
IMAGES = 16
COLUMNS = 8


class EventFile:
    """One more event file in `directory`, with the earlier ones as they were at `step`.

    Args:
        directory: the folder that TensorBoard shows as one run.
        step: where the run goes on from: TensorBoard hides what the earlier files say after it;
            with 0 they are removed.
    """

    def __init__(self, directory: Path, step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        earlier = list(directory.glob("events.out.tfevents.*"))
        if step == 0:
            for file in earlier:
                file.unlink()
        # Numbered, because tensorboardX names files by the second and overwrites one of that name.
        self._writer = EventsWriter(str(directory / "events"), f".{len(earlier):04d}")
        self._flushed = time.monotonic()
        self._session_end: Any = None
        if step and earlier:
            purge = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            self._writer.write_event(purge)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars by name."""
        for name, value in values.items():
            self._write(step, summary.scalar(name, value))

    def histograms(self, step: int, group: str, tree: Any) -> None:
        """Writes a histogram of the finite values of each leaf that has any."""
        for path, leaf in paths.flatten(tree).items():
            values = np.asarray(leaf).astype(np.float64)
            values = values[np.isfinite(values)]
            if values.size:
                self._write(step, summary.histogram(f"{group}/{path}", values, BINS))

    def images(self, step: int, name: str, batch: Any) -> None:
        """Writes the first images of a batch `(batch, height, width, channels)` as one picture."""
        batch = np.asarray(batch)
        if batch.ndim != 4:
            raise ValueError(
                f"images {name!r}: shape {batch.shape} is not (batch, height, width, channels)"
            )
        self._write(step, summary.image(name, contact_sheet(batch[:IMAGES]), dataformats="HWC"))

    def hparams(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes hyperparameters and which scalars to show beside them."""
        flat = {name: _plain(value) for name, value in paths.flatten(dict(values)).items()}
        experiment, start, self._session_end = summary.hparams(flat, dict.fromkeys(metrics, 0.0))
        self._write(0, experiment)
        self._write(0, start)

    def flush(self) -> None:
        """Waits until the events are on the disk."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self, succeeded: bool) -> None:
        """Closes the file; a run with hyperparameters that succeeded is shown as finished."""
        if succeeded and self._session_end is not None:
            self._write(0, self._session_end)
        self._writer.close()

    def _write(self, step: int, message: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=message))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:  # a flush waits for the disk
            self.flush()


def contact_sheet(batch: np.ndarray) -> np.ndarray:
    """Images side by side in rows: `(batch, height, width, channels)` to `(rows, columns, 3)`.

    uint8 stays as it is; other types are scaled so that the batch's least value is black and its
    greatest white. Other than three channels, only the first is shown, in grey.
    """
    count, height, width, channels = batch.shape
    if batch.dtype != np.uint8:
        batch = batch.astype(np.float64)
        low, high = batch.min(), batch.max()
        batch = ((batch - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    if channels != 3:
        batch = np.repeat(batch[..., :1], 3, axis=-1)
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:count] = batch
    sheet = sheet.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * height, columns * width, 3)


def _plain(value: Any) -> bool | float | str:
    """What TensorBoard's table can hold."""
    return value if isinstance(value, bool | int | float | str) else str(value)

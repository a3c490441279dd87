"""`metrics.jsonl`: one JSON object a line, whole lines only, no step of a stage twice.

    {"step": 50, "time": 1795434000.125, "stage": "train", "values": {"train/loss": 0.51}}

`time` is in seconds since 1970. JSON knows no NaN and no infinity: both are `null` and read as NaN.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging


class Record(NamedTuple):
    """One line of the file."""

    step: int
    time: float
    stage: str
    values: dict[str, float]


class MetricsFile:
    """Appends one stage's scalars; each line is with the operating system before the call returns.

    Args:
        path: the file, shared by the stages of a run.
        stage: the stage's name.
        step: where the stage goes on from; lines of this stage after it are dropped, all of them
            if it is 0.
    """

    def __init__(self, path: Path, stage: str, step: int) -> None:
        _drop(path, stage, step)
        self._stage = stage
        self._file = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        line = {
            "step": step,
            "time": round(time.time(), 3),
            "stage": self._stage,
            "values": {k: v if math.isfinite(v) else None for k, v in values.items()},
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def flush(self) -> None:
        """Waits until the lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self, succeeded: bool) -> None:
        """Closes the file."""
        self._file.close()


def read(path: Path) -> list[Record]:
    """The file's records; a last line without its end was cut off by a crash and is left out.

    Raises:
        ValueError: another line is not a record.
    """
    return [_record(line, number, path) for number, line in enumerate(_whole_lines(path), 1)]


def _drop(path: Path, stage: str, step: int) -> None:
    """Rewrites the file, at once or not at all, without what a dead run of `stage` left in it."""
    if not path.exists():
        return
    kept = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            record = _record(line, number, path)
        except ValueError as error:  # a damaged log must not keep a run from going on
            logging.warning("%s: left out", error)
            continue
        if record.stage != stage or 0 < step >= record.step:
            kept.append(line)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines, each with its newline; a last line without one is left out."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _record(line: bytes, number: int, path: Path) -> Record:
    try:
        fields: dict[str, Any] = json.loads(line)
        values = {k: math.nan if v is None else float(v) for k, v in fields["values"].items()}
        return Record(int(fields["step"]), float(fields["time"]), str(fields["stage"]), values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}:{number} is not a record of step, time, stage and values ({error!r}): "
            f"{line[:80]!r}"
        ) from None

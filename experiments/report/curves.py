"""The curves of a report: a stage's scalars from `metrics.jsonl`, thinned."""

import math
from collections.abc import Iterable

from experiments.logs.jsonl import Record
from experiments.report.schema import Curve


def curves(records: Iterable[Record], stage: str, points: int = 250) -> dict[str, Curve]:
    """A stage's scalars by name, to six digits, which float32 has.

    Of more than `points` values every so many are taken, the last included.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.stage == stage:
            for name, value in record.values.items():
                found.setdefault(name, []).append((record.step, value))
    return {name: _thinned(pairs, points) for name, pairs in found.items()}


def _thinned(pairs: list[tuple[int, float]], points: int) -> Curve:
    stride = math.ceil(len(pairs) / points)
    steps, values = zip(*pairs[::-1][::stride][::-1], strict=True)
    return Curve(steps=steps, values=tuple(float(f"{value:.6g}") for value in values))

"""The matrix of exports: models by targets by precisions, each run in its runtime beside JAX.

    python -m experiments.bench.export                      all that is installed
    python -m experiments.bench.export --models=minilm,vit    some models, added to the results

A row `MODEL, TARGET PRECISION, error` is the greatest difference of a logit from what JAX computes
of the same model, over the greatest absolute logit; `agreement` the share of equal labels. Of
integers that is beside JAX's own integers, and what stands between quantized products is rounded
too (`full_integer`). `latency` is that of one example by one thread, written for one: integers
beside the float original's in the same runtime, floats beside XLA's, samples in turn, each of calls
one after the other for a twentieth of a second. Memory is what a process has resident at most:
while it loads, beside the bytes of what it loads; and while it computes, beside JAX's with the
float model.

Images are random, from seed 0, and texts are reviews of films: rows say that an artefact is its
model, not how good that is. Weights are random, from seed 0, but for MobileNetV2, MiniLM and
ResNet-20 (and what is made of it).
"""

import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from experiments.bench.exported_loading import LOADED, loading_rows
from experiments.bench.exported_models import EXAMPLES, INT8, SUBJECTS, Subject, quantized
from experiments.bench.exported_nnx import FLOAT, nnx_rows
from experiments.bench.record import RESULTS, Row, record
from experiments.export import files, parity, programs, speed
from experiments.export.config import DYNAMIC
from experiments.export.places import PLACES, installed
from experiments.network import Network, Variables
from experiments.runtimes.runtime import all_threads
from experiments.runtimes.worker import Worker
from slim.export import TARGETS

ROUNDS = 9
XLA = "stablehlo"
NNX = "nnx"

_MODELS = flags.DEFINE_list("models", None, "These models alone.")

RUNTIMES = ("onnx", "openvino", "litert")
GOALS: Mapping[tuple[str, str], str] = {
    **{(name, target): "<= 0.303" for name in ("resnet18", "resnet50") for target in RUNTIMES},
    ("resnet20", "litert"): "<= 0.303",
    ("resnet20_cifar", "litert"): "<= 0.303",
    **{("minilm", target): "<= 0.4" for target in RUNTIMES},
}
"""Of latencies of int8 over floats, by model and target."""
MEMORY_GOALS = {"minilm": "<= 0.4"}
"""Of memory, with weights of eight bits, over that of JAX with floats."""


@dataclass(frozen=True)
class Cell:
    """A place in the matrix.

    Attributes:
        name: of the model.
        target: of the artefact.
        precision: likewise.
        made: what is written.
        original: its float model.
    """

    name: str
    target: str
    precision: str
    made: Subject
    original: tuple[Network, Variables]

    def __str__(self) -> str:
        """As rows begin."""
        return f"{self.name}, {self.target} {self.precision}"

    @property
    def runtime(self) -> str | None:
        """What runs it."""
        return PLACES[self.target].runtime

    def write(self, folder: Path, batch: int | str) -> tuple[Path, int]:
        """The artefact and its bytes."""
        made, inputs = self.made, self.made.inputs
        step = EXAMPLES if batch == DYNAMIC else int(batch)
        program = programs.build(
            self.target,
            self.precision,
            made.network,
            made.variables,
            batch=batch,
            preprocessing=False,
            calibration=[inputs[i : i + step] for i in range(0, EXAMPLES, step)],
        )
        of = TARGETS[self.target]
        return files.write_artefact(of.write(program), folder, of.suffix)


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes the rows."""
    del argv
    chosen = _MODELS.value or [*SUBJECTS, NNX, LOADED]
    rows: list[Row] = []
    for name in chosen:
        if name == NNX:
            rows += nnx_rows()
        elif name == LOADED:
            rows += loading_rows()
        else:
            rows += model_rows(name, SUBJECTS[name]())
    record("export", [*_before(chosen), *rows] if _MODELS.value else rows)


def _before(chosen: Sequence[str]) -> list[Row]:
    """The rows of other models that are there, where some are measured again."""
    file = RESULTS / "export.json"
    found = json.loads(file.read_text())["rows"] if file.exists() else []
    return [
        Row(
            row["name"],
            math.nan if row["ours"] is None else row["ours"],
            row["peer"],
            row["goal"],
            row.get("unit", ""),
            row["ratio"],
        )
        for row in found
        if row["name"].split(",")[0] not in chosen
    ]


def model_rows(name: str, subject: Subject) -> list[Row]:
    """All targets and precisions of a model; integers of a float model are calibrated."""
    original = subject.original or (subject.network, subject.variables)
    of_floats = not subject.network.quantized
    integers = {False: quantized(subject) if of_floats else subject}
    if of_floats and "tensorrt" in installed():
        integers[True] = quantized(subject, symmetric=True)  # TensorRT has no zero points
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        beside = _Floats(name, subject, original, Path(scratch))
        for target in installed():
            for precision in TARGETS[target].precisions:
                made = subject
                if precision in programs.INTEGERS:
                    if (symmetric := target == "tensorrt") not in integers:
                        continue
                    made = integers[symmetric]
                # Weights of four bits are another recipe; a quantized model has no floats.
                fits = made.network.quantized == (precision in programs.INTEGERS)
                if precision != "int4" and fits:
                    rows += _rows(Cell(name, target, precision, made, original), beside)
    return rows


class _Floats:
    """The float original for one example, by target, written when asked for."""

    def __init__(
        self, name: str, subject: Subject, original: tuple[Network, Variables], scratch: Path
    ) -> None:
        """Of a subject."""
        self._name, self._scratch, self._original = name, scratch, original
        self._inputs = subject.inputs
        self._made: dict[str, Path] = {}
        self._memory = math.nan

    def path(self, target: str) -> Path:
        """Where it lies."""
        if target not in self._made:
            subject = Subject(*self._original, self._inputs)
            cell = Cell(self._name, target, FLOAT, subject, self._original)
            self._made[target], _ = cell.write(self._scratch / target, 1)
        return self._made[target]

    def memory_in_jax(self) -> float:
        """Bytes that JAX's process has resident at most while it computes."""
        if math.isnan(self._memory):
            with Worker("jax", self.path(XLA), 1) as worker:
                worker.run({programs.INPUT: self._inputs[:1]})
                self._memory = float(worker.peak_bytes())
        return self._memory


def _rows(cell: Cell, beside: _Floats) -> list[Row]:
    """One artefact: what it differs by, its latency and memory."""
    of = TARGETS[cell.target]
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        try:
            path, size = cell.write(whole, DYNAMIC if of.dynamic_batch else 1)
        except ValueError as error:
            print(f"{cell}: not written: {error}", file=sys.stderr)
            return [Row(f"{cell}, written", 0.0, goal="== 1")]
        rows = [Row(f"{cell}, bytes", float(size), unit="B")]
        if cell.runtime is None:
            return [Row(f"{cell}, written", 1.0, goal="== 1"), *rows]
        rows += _near(cell, path, EXAMPLES if of.dynamic_batch else 1)
        if of.runs:
            one, _ = cell.write(Path(scratch, "one"), 1)
            rows += _timed(cell, one, beside)
    return rows


def _near(cell: Cell, path: Path, step: int) -> list[Row]:
    """How near it is to JAX."""
    assert cell.runtime is not None
    inputs = cell.made.inputs
    expected = np.asarray(jax.jit(cell.made.network.predict)(cell.made.variables, inputs))
    with Worker(cell.runtime, path, all_threads()) as worker:
        parts = [inputs[i : i + step] for i in range(0, EXAMPLES, step)]
        found = np.concatenate([worker.run({programs.INPUT: x})[programs.OUTPUT] for x in parts])
    near, limits = parity.compare(found, expected), parity.LIMITS[cell.precision]
    # Labels of random weights lie within a step of each other.
    of_labels = f">= {limits.agreement:g}" if cell.precision == FLOAT else ""
    return [
        Row(f"{cell}, error", near.max_error / near.largest, goal=f"<= {limits.error:g}"),
        Row(f"{cell}, agreement", near.agreement, goal=of_labels),
    ]


def _timed(cell: Cell, path: Path, beside: _Floats) -> list[Row]:
    """Its latency and memory for one example by one thread."""
    assert cell.runtime is not None
    is_float = cell.precision == FLOAT
    has_floats = FLOAT in TARGETS[cell.target].precisions
    other = XLA if is_float or not has_floats else cell.target
    by = PLACES[other].runtime
    assert by is not None
    artefacts = {
        "own": speed.Loadable(cell.runtime, path, 1),
        "other": speed.Loadable(by, beside.path(other), 1),
    }
    times = speed.measure(
        artefacts, {programs.INPUT: cell.made.inputs}, threads=(1,), batches=(1,), rounds=ROUNDS
    )
    own, base = times["own"].calls[1, 1], times["other"].calls[1, 1]
    goal = GOALS.get((cell.name, cell.target), "") if cell.precision == INT8 else ""
    if is_float and cell.target == "onnx":
        goal = "<= 1"
    memory = times["own"].peak_bytes / 2**20
    small = cell.target != XLA and cell.precision in (INT8, "dynamic_range")
    of_memory = MEMORY_GOALS.get(cell.name, "") if small else ""
    return [
        Row(
            f"{cell}, latency over {'XLA' if other == XLA else 'float'}",
            1e3 * own.median_s,
            1e3 * base.median_s,
            goal,
            "ms",
            own.ratio(base),
        ),
        Row(f"{cell}, memory over JAX", memory, beside.memory_in_jax() / 2**20, of_memory, "MiB"),
    ]


if __name__ == "__main__":
    app.run(main)

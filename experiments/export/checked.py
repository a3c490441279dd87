"""Artefacts held against JAX on real examples; where one differs, the first node that does."""

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from experiments.export import files, parity
from experiments.export.config import DYNAMIC, ExportConfig
from experiments.export.programs import INPUT, OUTPUT
from experiments.network import Network, Variables, prepare
from experiments.runtimes.runtime import all_threads
from experiments.runtimes.worker import Worker, WorkerError
from experiments.schema import ConfigError
from slim.export import TARGETS, Program, Unsupported
from slim.export.program import Node

CHUNK = 64
"""Examples in a call, where a batch may be any."""
SHOWN = 4
"""Examples, those that differ most, by which the first node is found that differs."""
FINER = (1.0, 0.1, 0.01)
"""Shares of the limit that a value inside may differ by: small errors may add up to one too large.
"""


class Artefact(Protocol):
    """What is compared: see `experiments.stages.export.Made`."""

    @property
    def target(self) -> str:
        """A name of `TARGETS`."""

    @property
    def precision(self) -> str:
        """Of what it computes."""

    @property
    def program(self) -> Program:
        """What it was written from."""

    @property
    def path(self) -> Path:
        """What its runtime loads."""


class Checked:
    """Examples, and what JAX computes of them."""

    def __init__(
        self,
        network: Network,
        variables: Variables,
        inputs: np.ndarray,
        labels: np.ndarray,
        *,
        preprocessing: bool,
    ) -> None:
        """Of a network; `inputs` are as stored, and become what artefacts take."""
        self._network, self._variables = network.alone, variables
        self.labels = labels
        # As the trainer scales pixels; the same bits wherever it is done.
        self.inputs = inputs if preprocessing else np.asarray(prepare(jax.numpy.asarray(inputs)))

    @cached_property
    def logits(self) -> np.ndarray:
        """JAX's."""
        predict = jax.jit(lambda variables, x: self._network.predict(variables, prepare(x)))
        return in_chunks(lambda x: np.asarray(predict(self._variables, x)), self.inputs, CHUNK)

    def top1(self, logits: np.ndarray) -> float:
        """Share of labels that got the largest logit."""
        return float((logits.argmax(-1) == self.labels).mean())


def in_chunks(run: Any, inputs: np.ndarray, size: int) -> np.ndarray:
    """What `run` gives of batches of one size, together; the last is filled up with its last row.

    >>> in_chunks(lambda x: x.sum(1), np.ones((5, 2)), 3).tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    found = []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
        found.append(run(np.ascontiguousarray(filled))[: len(part)])
    return np.concatenate(found)


def check_parity(
    name: str, config: ExportConfig, checked: Checked, made: Artefact, runtime: str
) -> dict[str, Any]:
    """The fields of an `Export` that say how near it is.

    Args:
        name: of the stage.
        config: of the stage.
        checked: examples.
        made: the artefact.
        runtime: a name of `RUNTIMES`.

    Raises:
        ConfigError: it is not near enough, or does not run.
    """
    size = CHUNK if config.batch == DYNAMIC else int(config.batch)
    limits = parity.LIMITS[made.precision]
    if config.tolerance is not None:
        limits = limits._replace(error=config.tolerance)
    if config.agreement is not None:
        limits = limits._replace(agreement=config.agreement)
    try:
        with Worker(runtime, made.path, all_threads()) as worker:
            logits = in_chunks(lambda x: worker.run({INPUT: x})[OUTPUT], checked.inputs, size)
    except WorkerError as error:
        raise ConfigError(
            f"{name}: the {made.target} artefact does not run in {runtime}: {error}"
        ) from None
    found = parity.compare(logits, checked.logits)
    if not found.within(limits):
        worst = _worst(logits, checked.logits)
        inputs = checked.inputs[np.resize(worst, SHOWN if config.batch == DYNAMIC else size)]
        node = locate(made, runtime, inputs, limits.error)
        raise ConfigError(
            f"{name}: the {made.target} artefact ({made.precision}) differs from JAX: its greatest "
            f"error is {found.max_error:.3g}, with logits to {found.largest:.3g}, and "
            f"{limits.error:g} of that is allowed; labels agree on {found.agreement:.2%}, and "
            f"{limits.agreement:.0%} must; {_said(made.program, node)}. "
            f"Set {name}.tolerance and {name}.agreement where that is near enough"
        )
    return {
        "examples": len(checked.labels),
        **found._asdict(),
        "top1": checked.top1(logits),
        "top1_jax": checked.top1(checked.logits),
    }


def locate(made: Artefact, runtime: str, inputs: np.ndarray, error: float) -> Node | None:
    """The first node that the target has otherwise than JAX; see `parity.first_difference`."""

    def run(short: Program) -> dict[str, np.ndarray]:
        target = TARGETS[made.target]
        with tempfile.TemporaryDirectory(prefix="slim_export_") as folder:
            path, _ = files.write_artefact(target.write(short), Path(folder), target.suffix)
            with Worker(runtime, path, all_threads()) as worker:
                return worker.run({INPUT: inputs})

    for share in FINER:
        try:
            node = parity.first_difference(made.program, {INPUT: inputs}, run, share * error)
        except (WorkerError, Unsupported):  # of a part of the program, which it did as a whole
            return None
        if node is not None:
            return node
    return None


def _worst(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The examples whose logits differ most; the first ones, where shapes do."""
    if found.shape != expected.shape:
        return np.arange(min(SHOWN, len(expected)))
    errors = np.abs(found.astype(np.float64) - expected).reshape(len(expected), -1).max(1)
    return np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")[:SHOWN]


def _said(program: Program, node: Node | None) -> str:
    if node is None:
        return "no value inside differs by as much"
    fed = [program.names[value] for value in node.ins if value in program.names]
    of = f" of {', '.join(fed)}" if fed else ""
    return f"the first value that differs is that of {node.op!r}{of} ({node.line})"

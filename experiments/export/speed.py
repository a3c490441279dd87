"""What calls of artefacts take, in turn with the float original's, and the memory they need.

Each artefact is loaded by a process of its own, so that threads are as many as it is given, and so
that memory is the runtime's and the artefact's alone.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.runtimes.worker import Worker
from experiments.timing import Latency, clocked_in_turn

SAMPLE_S = 0.05
"""Of calls one after the other, as a server makes them: the caches are the artefact's own."""

Inputs = Mapping[str, np.ndarray]


class Loadable(NamedTuple):
    """An artefact and what runs it.

    Attributes:
        runtime: a name of `experiments.runtimes.RUNTIMES`.
        path: where it lies.
        batch: how many examples it takes; None: any number.
    """

    runtime: str
    path: Path
    batch: int | None = None


class Measured(NamedTuple):
    """What was measured of one artefact.

    Attributes:
        calls: by threads and batch.
        peak_bytes: resident in its process while it computed by one thread.
    """

    calls: dict[tuple[int, int], Latency]
    peak_bytes: float


def measure(
    artefacts: Mapping[str, Loadable],
    inputs: Inputs,
    *,
    threads: Sequence[int],
    batches: Sequence[int],
    rounds: int,
) -> dict[str, Measured]:
    """Times all artefacts in turn, at each number of threads and each batch that they take.

    Args:
        artefacts: by name.
        inputs: examples, at least as many as the greatest batch, or they repeat.
        threads: to compute by; memory is read at the first of them.
        batches: examples in a call.
        rounds: samples of each.

    Raises:
        WorkerError: a runtime cannot load or run its artefact.
    """
    found = {name: Measured({}, math.nan) for name in artefacts}
    for number in dict.fromkeys(threads):
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(Worker(each.runtime, each.path, number))
                for name, each in artefacts.items()
            }
            for batch in batches:
                taking = [n for n, each in artefacts.items() if each.batch in (None, batch)]
                for name in taking:
                    workers[name].run(repeated(inputs, batch))
                times = (
                    clocked_in_turn(
                        {n: workers[n].seconds for n in taking},
                        rounds=rounds,
                        sample_seconds=SAMPLE_S,
                    )
                    if taking
                    else {}
                )
                for name, latency in times.items():
                    found[name].calls[number, batch] = latency
            if number == threads[0]:
                for name, worker in workers.items():
                    found[name] = found[name]._replace(peak_bytes=float(worker.peak_bytes()))
    return found


def repeated(inputs: Inputs, count: int) -> dict[str, np.ndarray]:
    """The first `count` examples, from the beginning again where there are fewer."""
    return {
        name: np.ascontiguousarray(array[np.arange(count) % len(array)])
        for name, array in inputs.items()
    }

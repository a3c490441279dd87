"""Runs an artefact in a process of its own, which holds its runtime and nothing else.

    with Worker("onnxruntime", path, threads=1) as worker:
        worker.run({"input": images})["logits"]
        worker.seconds(10)              # of ten such calls more, by the process's own clock
        worker.peak_bytes()

So threads are as many as asked for, also where a library takes them once for a process (XLA), and
memory is that of the runtime and the artefact. The process waits, and computes nothing, between its
calls: several can be timed in turn.
"""

import io
import os
import pickle
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np

OWN = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")  # settings that each process makes for itself

Inputs = Mapping[str, np.ndarray]

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"


class WorkerError(RuntimeError):
    """The process ended, or its runtime refused; the message is its own."""


class Worker:
    """A process that runs one artefact."""

    def __init__(self, runtime: str, path: Path, threads: int) -> None:
        """Starts it and loads the artefact.

        Args:
            runtime: a name of `experiments.runtimes.RUNTIMES`.
            path: of the artefact.
            threads: how many compute; XLA's, as it has no number, are held on as many cores.

        Raises:
            WorkerError: the runtime cannot load it.
        """
        command = [sys.executable, "-m", "experiments.runtimes.worker"]
        command += [runtime, str(path.absolute()), str(threads)]
        # What tests and callers ask of their own JAX (devices, optimizations) is no part of this.
        kept = {name: value for name, value in os.environ.items() if name not in OWN}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=kept | {"JAX_PLATFORMS": "cpu"},
            cwd=Path(__file__).parents[2],
        )
        self.load_seconds = float(self._answer())

    def run(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """All outputs by name."""
        outputs: dict[str, np.ndarray] = self._ask("run", dict(inputs))
        return outputs

    def seconds(self, count: int) -> float:
        """Seconds that so many calls with the inputs of the last `run` take, one by one."""
        return float(self._ask("seconds", count))

    def peak_bytes(self) -> int:
        """The most memory that the process had resident since it had loaded the artefact."""
        return int(self._ask("peak"))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> "Worker":
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self.close()

    def _ask(self, *request: Any) -> Any:
        assert self._process.stdin is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            worked, answer = pickle.load(self._process.stdout)
        except EOFError:
            raise self._ended() from None
        if not worked:
            self.close()
            raise WorkerError(answer)
        return answer

    def _ended(self) -> WorkerError:
        self._process.communicate()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        code = self._process.returncode
        self.close()
        return WorkerError(f"the process ended with code {code}: {''.join(last) or 'no word'}")


def _serve(runtime: str, path: Path, threads: int, answers: io.BufferedWriter) -> None:
    """Answers requests until their pipe is closed."""

    def answer(worked: bool, what: Any) -> None:
        pickle.dump((worked, what), answers)
        answers.flush()

    try:
        from experiments.runtimes import RUNTIMES

        begun = perf_counter_ns()
        session = RUNTIMES[runtime].load(path, threads)
        loaded = (perf_counter_ns() - begun) / 1e9
        if CLEAR.exists():
            CLEAR.write_text(FORGET_PEAK)
        answer(True, loaded)
        while True:
            try:
                kind, *rest = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            if kind == "peak":
                answer(True, _peak_bytes())
            elif kind == "run":
                (inputs,) = rest
                answer(True, session.run(inputs))
            else:
                (count,) = rest
                begun = perf_counter_ns()
                for _ in range(count):
                    session.run(inputs)
                answer(True, (perf_counter_ns() - begun) / 1e9)
    except Exception as error:  # whatever it is, the caller must know
        answer(False, f"{type(error).__name__}: {error}")


def _peak_bytes() -> int:
    """Linux counts from the last `FORGET_PEAK` on, others from the start of the process."""
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(runtime: str, path: str, threads: str) -> None:
    """Serves by the pipe that was standard output; what libraries print goes to the errors."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[: int(threads)]
        os.sched_setaffinity(0, cores)
    _serve(runtime, Path(path), int(threads), answers)


if __name__ == "__main__":
    main(*sys.argv[1:])

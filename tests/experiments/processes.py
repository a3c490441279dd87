"""Runs as processes of their own, and what they leave in their workdir."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from slim import paths

CONFIG = Path(__file__).with_name("tiny_recipe.py")
TIMEOUT = 120

# Runs the rest of the command line where no file may grow past so many bytes. (Popen's own hook,
# preexec_fn, forks this process, which JAX warns of.)
LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    stderr: str


class Process:
    """One `python -m experiments.main`, its stderr in a file so that no pipe can block it."""

    def __init__(
        self, workdir: Path, flags: Sequence[str], env: Mapping[str, str], file_limit: int | None
    ):
        self.workdir = workdir
        self._stderr = workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}.stderr")
        command = [sys.executable, "-m", "experiments.main"]
        if not any(flag.startswith("--config=") for flag in flags):
            command.append(f"--config={CONFIG}")
        if file_limit is not None:
            command = [sys.executable, "-c", LIMITED, str(file_limit), *command]
        with self._stderr.open("wb") as stderr:
            self.popen = subprocess.Popen(
                [*command, f"--workdir={workdir}", *flags],
                env={**os.environ, **env},
                cwd=CONFIG.parents[2],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    def end(self) -> Ended:
        """Waits for the end."""
        code = self.popen.wait(TIMEOUT)
        return Ended(code, self._stderr.read_text())

    def signal_at(self, signal: int, stage: str, step: int) -> Ended:
        """Sends a signal as soon as the log says that a step is done, and waits for the end."""
        limit = time.monotonic() + TIMEOUT
        while last_step(self.workdir, stage) < step:
            assert self.popen.poll() is None, f"ended too soon: {self.end()}"
            assert time.monotonic() < limit, f"step {step} of {stage} never came"
            time.sleep(0.005)
        self.popen.send_signal(signal)
        return self.end()


def stage_directory(workdir: Path, stage: str) -> Path:
    """Where a stage keeps its files."""
    (found,) = (workdir / "stages").glob(f"{stage}-*")
    return found


def last_step(workdir: Path, stage: str) -> int:
    """The last step in a stage's log; 0 where there is none."""
    for log in (workdir / "stages").glob(f"{stage}-*/metrics.jsonl"):
        lines = log.read_bytes().split(b"\n")[:-1]
        return json.loads(lines[-1])["step"] if lines else 0
    return 0


def newest(checkpoints: Path) -> Path:
    """The newest checkpoint in a directory of them."""
    return max((c for c in checkpoints.iterdir() if c.name.isdigit()), key=lambda c: int(c.name))


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """All arrays that Orbax stored in a folder, by path."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        stored = checkpointer.metadata(folder.absolute()).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        tree = checkpointer.restore(folder.absolute(), restore_args=numpy)
    return {path: np.asarray(leaf) for path, leaf in paths.flatten(tree).items()}


def progress(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays."""
    return json.loads((checkpoint / "progress" / "metadata").read_text())


def everything(workdir: Path) -> dict[str, Any]:
    """All that a finished run left whose bits are the same whenever it was stopped."""
    found: dict[str, Any] = {}
    for stage in ("train", "prune"):
        directory = stage_directory(workdir, stage)
        checkpoint = newest(directory / "checkpoints")
        kept = progress(checkpoint)
        kept.pop("seconds")
        found |= {f"{stage}/progress/{name}": value for name, value in kept.items()}
        for part, folder in {"state": checkpoint / "state", "model": directory / "model"}.items():
            found |= {f"{stage}/{part}/{path}": leaf for path, leaf in arrays(folder).items()}
    return found


def assert_same_bits(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """All names and all values are the same, to the last bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)

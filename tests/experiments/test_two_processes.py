"""Two processes on this machine train as one does, and what they save one process can go on from.

Four devices each time: two in each of two processes, or four in one.
"""

import signal
import socket

import numpy as np
import pytest

from experiments.logs import METRICS, jsonl
from tests.experiments.processes import last_step, newest, stage_directory

SHORT = (
    "--config.train.epochs=1.0",
    "--config.run.checkpoint_epochs=0.4",
    "--config.run.histogram_epochs=0.0",
)
STEPS = {"train": 22, "prune": 22}


def one(start, workdir, *flags):
    return start(workdir, *SHORT, *flags, env={"JAX_NUM_CPU_DEVICES": "4"})


def two(start, workdir, *flags):
    """Starts both, the one that writes first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"JAX_NUM_CPU_DEVICES": "2", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    shared = (*SHORT, f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    return [start(workdir, *shared, f"--process_id={i}", *flags, env=env) for i in range(2)]


def losses(workdir):
    """Every loss of training and evaluation that a run logged, in order."""
    return {
        (record.stage, record.step, name): value
        for stage in STEPS
        if any((workdir / "stages").glob(f"{stage}-*"))
        for record in jsonl.read(stage_directory(workdir, stage) / METRICS)
        for name, value in record.values.items()
        if name in ("train/loss", "eval/loss")
    }


def assert_same_losses(found, expected):
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory):
    """The losses of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ended = one(start, workdir).end()
    assert ended.code == 0, ended.stderr
    found = losses(workdir)
    assert len(found) == sum(STEPS.values()) + len(STEPS)
    return found


def test_two_processes_have_the_losses_of_one(start, alone, tmp_path):
    workdir = tmp_path / "run"
    for process in two(start, workdir, "--config.stages=('train',)"):
        ended = process.end()
        assert ended.code == 0, ended.stderr
    assert_same_losses(losses(workdir), {k: v for k, v in alone.items() if k[0] == "train"})


def test_two_processes_with_split_parameters_stop_together_and_one_goes_on(start, alone, tmp_path):
    workdir = tmp_path / "run"
    first, second = two(start, workdir, "--config.mesh.fsdp=2")
    for ended in (first.signal_at(signal.SIGTERM, "prune", 7), second.end()):
        assert ended.code == 75, ended.stderr
    saved = int(newest(stage_directory(workdir, "prune") / "checkpoints").name)
    assert 7 <= saved == last_step(workdir, "prune")
    ended = one(start, workdir).end()
    assert ended.code == 0, ended.stderr
    assert f"prune: going on from step {saved}/22" in ended.stderr
    assert_same_losses(losses(workdir), alone)

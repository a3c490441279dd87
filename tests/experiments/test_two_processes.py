"""Two processes on this machine train as one does, and what they save one process can go on from.

Four devices each time: two in each of two processes, or four in one.
"""

import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from experiments.logs import METRICS, jsonl
from tests.experiments.processes import last_step, newest, stage_directory

SHORT = (
    "--config.train.epochs=1.0",
    "--config.stages=('train',)",
    "--config.run.checkpoint_epochs=0.4",
    "--config.run.histogram_epochs=0.0",
)
STEPS = 22


def one(start, workdir, *flags, short=SHORT):
    return start(workdir, *short, *flags, env={"JAX_NUM_CPU_DEVICES": "4"})


def two(start, workdir, *flags, short=SHORT):
    """Starts both, the one that writes first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"JAX_NUM_CPU_DEVICES": "2", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    shared = (*short, f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    return [start(workdir, *shared, f"--process_id={i}", *flags, env=env) for i in range(2)]


def losses(workdir):
    """Every loss of training and evaluation that a run logged, in order."""
    return {
        (record.step, name): value
        for record in jsonl.read(stage_directory(workdir, "train") / METRICS)
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
    assert len(found) == STEPS + 1
    return found


@pytest.mark.parametrize("flags", [(), ("--config.mesh.fsdp=2",)], ids=["data", "fsdp"])
def test_two_processes_have_the_losses_of_one(start, alone, tmp_path, flags):
    workdir = tmp_path / "run"
    for process in two(start, workdir, *flags):
        ended = process.end()
        assert ended.code == 0, ended.stderr
    assert_same_losses(losses(workdir), alone)


@pytest.mark.slow
def test_experts_in_both_processes(start, tmp_path):
    """Each has half of them, and tokens go to and fro."""
    config = f"--config={Path(__file__).with_name('tiny_language.py')}"
    runs = [one(start, tmp_path / "one", config, short=())]
    runs += two(start, tmp_path / "two", config, "--config.mesh.expert=4", short=())
    for process in runs:
        ended = process.end()
        assert ended.code == 0, ended.stderr
    assert len(losses(tmp_path / "one")) == 8 + 1  # evaluated once
    assert_same_losses(losses(tmp_path / "two"), losses(tmp_path / "one"))


def test_two_processes_stop_together_and_one_goes_on(start, tmp_path):
    workdir = tmp_path / "run"
    long = "--config.train.epochs=3.0"
    first, second = two(start, workdir, "--config.mesh.fsdp=2", long)
    for ended in (first.signal_at(signal.SIGTERM, "train", 7), second.end()):
        assert ended.code == 75, ended.stderr
    saved = int(newest(stage_directory(workdir, "train") / "checkpoints").name)
    assert 7 <= saved == last_step(workdir, "train")
    before = losses(workdir)
    ended = one(start, workdir, long).end()
    assert ended.code == 0, ended.stderr
    assert f"train: going on from step {saved}/67" in ended.stderr
    after = losses(workdir)
    assert {key: after[key] for key in before} == before
    assert sum(name == "train/loss" for _, name in after) == 67

"""A workdir has one user at a time, and a stage's result appears whole or not at all."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import pytest

from experiments import workdir
from experiments.stages import Model, Result
from experiments.workdir import Finished
from tests.experiments import jobs
from tests.experiments.processes import last_step


def test_a_second_process_is_refused_and_the_first_goes_on(start, tmp_path):
    directory = tmp_path / "run"
    first = start(directory, "--config.train.epochs=1000")
    while last_step(directory, "train") < 3:
        assert first.popen.poll() is None, first.end()
    second = start(directory).end()
    assert second.code == 4, second.stderr
    assert f"{directory} is in use by process {first.popen.pid};" in second.stderr
    ended = first.signal_at(signal.SIGTERM, "train", last_step(directory, "train") + 10)
    assert ended.code == 75, ended.stderr


def test_a_workdir_is_free_after_its_user(tmp_path):
    for _ in range(2):
        with workdir.locked(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
            with (
                pytest.raises(workdir.Busy, match=f"process {os.getpid()};"),
                workdir.locked(tmp_path),
            ):
                pass


@pytest.fixture
def network(tmp_path):
    return jobs.job(tmp_path / "job").network


@pytest.fixture
def model(network):
    variables = network.init(jax.random.key(1))
    return Model(variables, masks=jax.tree.map(lambda p: p > 0, variables["params"]))


def test_a_result_comes_back_as_it_was(network, model, tmp_path):
    finished = Finished(tmp_path / "stage")
    assert not finished.exists()
    finished.write(Result(model), seconds=1.25)
    assert finished.exists()
    assert finished.has_model()
    assert finished.seconds() == 1.25
    found = finished.model(network, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), found, model))


def test_a_result_without_a_model(tmp_path):
    finished = Finished(tmp_path / "stage")
    finished.write(Result(), seconds=0.5)
    assert finished.exists()
    assert not finished.has_model()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stage: (stage / "result.json").write_text("{"), "result.json cannot be read"),
        (lambda stage: (stage / "result.json").write_text("{}"), "result.json cannot be read"),
        (lambda stage: (stage / "model").rename(stage / "lost"), "its model is missing"),
        (lambda stage: (stage / "model" / "_METADATA").unlink(), "_METADATA is missing"),
    ],
)
def test_a_damaged_result_is_none(damage, message, model, tmp_path, caplog):
    stage = tmp_path / "stage"
    Finished(stage).write(Result(model), seconds=1.0)
    damage(stage)
    assert not Finished(stage).exists()
    assert message in caplog.text
    Finished(stage).write(Result(model), seconds=2.0)
    assert Finished(stage).exists()


def test_a_result_is_not_there_before_it_is_whole(model, tmp_path, monkeypatch):
    def killed(folder):
        raise KeyboardInterrupt

    finished = Finished(tmp_path / "stage")
    monkeypatch.setattr("experiments.workdir.seal.write", killed)
    with pytest.raises(KeyboardInterrupt):
        finished.write(Result(model), seconds=1.0)
    assert not finished.exists()
    monkeypatch.undo()
    changed = model._replace(variables=jax.tree.map(jnp.zeros_like, model.variables))
    finished.write(Result(changed), seconds=1.0)
    assert finished.exists()
    assert json.loads((tmp_path / "stage" / "result.json").read_text())["model"] is True


def test_a_model_that_cannot_be_written_is_an_os_error(model, tmp_path):
    (tmp_path / "stage").write_text("a file where the directory should be")
    with pytest.raises(OSError, match="stage"):
        Finished(tmp_path / "stage").write(Result(model), seconds=1.0)

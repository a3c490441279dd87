"""A process that runs one artefact, and says why where it cannot."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.export import files, speed
from experiments.runtimes.worker import Worker, WorkerError
from slim.export import program, stablehlo

X = np.arange(6, dtype=np.float32).reshape(2, 3)
W = np.ones((3, 2), np.float32) / 7


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artefact")
    files.write(stablehlo.write(program(lambda w, x: jnp.tanh(x @ w), W, X)), folder)
    return folder


def test_a_worker_runs_clocks_and_says_its_memory(artefact):
    with Worker("jax", artefact, 1) as worker:
        found = worker.run({"input": X})
        np.testing.assert_allclose(found["logits"], np.tanh(X @ W), rtol=1e-5)
        assert 0 < worker.seconds(2) < 60
        assert worker.peak_bytes() > 2**24
        assert worker.load_seconds > 0


def test_what_a_runtime_refuses_is_said(artefact, tmp_path):
    with pytest.raises(WorkerError, match="FileNotFoundError"):
        Worker("jax", tmp_path / "nothing", 1)
    with Worker("jax", artefact, 1) as worker, pytest.raises(WorkerError, match="shape"):
        worker.run({"input": X[:, :2]})


def test_a_process_that_ends_is_said_to_have(artefact):
    with Worker("jax", artefact, 1) as worker:
        worker._process.kill()
        with pytest.raises(WorkerError, match="ended with code -9"):
            worker.run({"input": X})


def test_artefacts_are_timed_at_the_batches_that_they_take(artefact):
    loaded = {"any": speed.Loadable("jax", artefact), "one": speed.Loadable("jax", artefact, 1)}
    found = speed.measure(loaded, {"input": X}, threads=(1,), batches=(1, 5), rounds=2)
    assert set(found["any"].calls) == {(1, 1), (1, 5)}
    assert set(found["one"].calls) == {(1, 1)}
    assert all(len(each.samples_s) == 2 for each in found["any"].calls.values())
    assert found["any"].peak_bytes > 2**24


def test_examples_repeat_where_there_are_fewer():
    np.testing.assert_array_equal(speed.repeated({"x": X}, 3)["x"], X[[0, 1, 0]])

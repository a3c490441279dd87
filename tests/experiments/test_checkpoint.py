"""Checkpoints: which stay, what is best, and what a failure leaves behind."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.checkpoint import Checkpointer

STATE = {"weights": jnp.arange(4.0), "step": jnp.int32(0)}


@pytest.fixture
def abstract():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), STATE)


def save(checkpointer, step, score=None):
    state = {"weights": STATE["weights"] + step, "step": jnp.int32(step)}
    checkpointer.save(step, state, {"score": score})


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_what_was_saved_comes_back_and_goes_where_it_is_asked(tmp_path, abstract):
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        assert checkpointer.restore(abstract) is None
        save(checkpointer, 3, score=0.5)
    found = Checkpointer(tmp_path, keep=1).restore(abstract)
    assert found.step == 3
    assert found.progress == {"score": 0.5}
    np.testing.assert_array_equal(found.state["weights"], [3, 4, 5, 6])
    assert found.state["weights"].sharding == abstract["weights"].sharding


def test_the_last_two_stay_and_the_best(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step, score in enumerate([0.1, 0.9, None, 0.5, None], start=1):
            save(checkpointer, step, score)
    assert steps(tmp_path) == [2, 4, 5]
    seals = sorted(path.stem for path in tmp_path.glob("*.seal"))
    assert seals == ["2", "4", "5"]


def test_a_finished_checkpoint_is_sealed_without_waiting_for_the_next(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    save(checkpointer, 1)
    limit = time.monotonic() + 10
    while not (tmp_path / "1.seal").exists():
        assert time.monotonic() < limit
        checkpointer.settle()
        time.sleep(0.01)
    checkpointer.close()


def test_an_error_in_the_block_is_not_hidden_by_one_of_writing(tmp_path, monkeypatch, caplog):
    checkpointer = Checkpointer(tmp_path, keep=2)
    monkeypatch.setattr(checkpointer, "wait", lambda: exec("raise OSError('disk full')"))
    with pytest.raises(ZeroDivisionError), checkpointer:
        _ = 1 / 0
    assert "disk full" in caplog.text
    with pytest.raises(OSError, match="disk full"), checkpointer:
        pass


def test_a_checkpoint_that_has_no_place_leaves_no_thread_behind(tmp_path):
    threads = set(threading.enumerate())
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep=2)
    save(checkpointer, 1)
    checkpointer.wait()
    (tmp_path / "checkpoints").rename(tmp_path / "lost")
    (tmp_path / "checkpoints").write_text("a file where the directory should be")
    with pytest.raises(OSError, match="checkpoints"):
        save(checkpointer, 2)
    checkpointer.close()
    gone = time.monotonic() + 10
    while left := set(threading.enumerate()) - threads:
        assert time.monotonic() < gone, left
        time.sleep(0.05)

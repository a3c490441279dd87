"""The trainer as a whole: the same bits, on any mesh, to the best or to where patience ends."""

import numpy as np
import pytest

from experiments.logs import METRICS, jsonl
from experiments.mesh import MeshConfig
from tests.experiments import jobs
from tests.experiments.jobs import flat, trained
from tests.experiments.processes import arrays, assert_same_bits


def logged(job, name):
    """A value by step, as the log has it."""
    records = jsonl.read(job.directory / METRICS)
    return {record.step: record.values[name] for record in records if name in record.values}


def test_the_same_seed_gives_the_same_bits_and_another_gives_others(make_job):
    one, same, other = (trained(make_job(changes={"seed": seed})) for seed in (7, 7, 8))
    assert_same_bits(flat(same), flat(one))
    kernels = [flat(outcome)["variables/params/head/kernel"] for outcome in (one, other)]
    assert (kernels[0] != kernels[1]).all()


def test_saving_and_showing_change_no_bit(make_job):
    job = make_job()
    quiet = job.run.model_copy(
        update={"checkpoint_seconds": 1e9, "log_steps": 50, "histogram_epochs": 0.2}
    )
    assert_same_bits(flat(trained(make_job(changes={"run": quiet}))), flat(trained(job)))


LAYOUTS = {
    "data": (4, MeshConfig()),
    "fsdp": (4, MeshConfig(fsdp=4)),
    "data and fsdp": (4, MeshConfig(fsdp=2)),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    made = jobs.job(tmp_path_factory.mktemp("alone"), ema=0.9)
    return trained(made), logged(made, "train/loss")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_mesh_trains_as_one_device_does(name, make_job, alone):
    devices, layout = LAYOUTS[name]
    job = make_job(devices=devices, layout=layout, ema=0.9)
    outcome = trained(job)
    expected, losses = alone
    found = logged(job, "train/loss")
    assert found.keys() == losses.keys()
    np.testing.assert_allclose(list(found.values()), list(losses.values()), atol=1e-5)
    for path, leaf in flat(expected).items():
        np.testing.assert_allclose(flat(outcome)[path], leaf, atol=2e-5, err_msg=path)


# With a rate this small no parameter moves: the first evaluation stays the best.
STILL = {"lr": 1e-30, "schedule": "constant", "weight_decay": 0.0}


def test_patience_ends_a_run_that_no_longer_improves(make_job):
    job = make_job(patience=3, eval_epochs=0.25, **STILL)
    outcome = trained(job)
    assert outcome.steps == 2 * (1 + 3) < job.total_steps
    assert list(logged(job, "eval/top1")) == [2, 4, 6, 8]
    assert trained(job).steps == 8  # and it stays ended


def test_without_patience_it_goes_to_the_end(make_job):
    job = make_job(patience=0, eval_epochs=0.25, **STILL)
    assert trained(job).steps == job.total_steps


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_the_best_is_handed_on_whenever_it_was_saved(checkpoint_seconds, make_job):
    job = make_job(keep="best", eval_epochs=0.5)
    run = job.run.model_copy(update={"checkpoint_seconds": checkpoint_seconds})
    job = make_job(keep="best", eval_epochs=0.5, changes={"run": run})
    outcome = trained(job)
    accuracy = logged(job, "eval/top1")
    assert list(accuracy) == [4, 8, 12, 15]
    best = max(accuracy, key=lambda step: accuracy[step])  # the first of equals
    assert best < 15  # or `last` would do as well
    saved = arrays(job.directory / "checkpoints" / str(best) / "state")
    for path, leaf in flat(outcome).items():
        if path.startswith("variables/"):
            np.testing.assert_array_equal(leaf, saved[path.removeprefix("variables/")])


def test_the_last_is_handed_on_by_default(make_job):
    job = make_job(eval_epochs=0.5)
    outcome = trained(job)
    saved = arrays(job.directory / "checkpoints" / "15" / "state")
    np.testing.assert_array_equal(
        outcome.variables["params"]["head"]["kernel"], saved["params/head/kernel"]
    )


def test_training_lowers_the_loss(make_job):
    job = make_job()
    trained(job)
    losses = list(logged(job, "train/loss").values())
    assert np.mean(losses[-3:]) < 0.2 * np.mean(losses[:3])

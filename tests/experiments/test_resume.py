"""A run that is killed or asked to stop goes on, by the same command, to the same bits."""

import dataclasses
import random
import signal
import time

import jax
import pytest
from flax import linen as nn

from experiments.preemption import Preempted
from slim.prune import (
    DISTRIBUTIONS,
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Window,
    find_masks,
    sparsify,
)
from tests.experiments.jobs import StopAt, flat, trained
from tests.experiments.processes import (
    assert_same_bits,
    everything,
    last_step,
    newest,
    progress,
    stage_directory,
)

STEPS = {"train": 45, "prune": 22}
KILLS = 3


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        yield


def random_steps(seed):
    """Three of all steps but each stage's last few, in order."""
    steps = [(stage, step) for stage, total in STEPS.items() for step in range(1, total - 4)]
    return sorted(random.Random(seed).sample(steps, KILLS), key=lambda s: (s[0] == "prune", s[1]))


def test_sigkill_at_three_random_steps_changes_no_bit(start, expected, tmp_path):
    workdir = tmp_path / "run"
    lost_after = 0.0
    began = time.monotonic()
    for stage, step in random_steps(seed=0):
        ended = start(workdir).signal_at(signal.SIGKILL, stage, step)
        assert ended.code == -signal.SIGKILL
        assert last_step(workdir, stage) >= step
        lost_after = max(lost_after, chronometer(workdir, stage))
    ended = start(workdir).end()
    assert ended.code == 0, ended.stderr
    assert "going on from step" in ended.stderr
    assert_same_bits(everything(workdir), expected)
    # The clock went on from what the killed processes had saved, and counts no time twice.
    total = sum(chronometer(workdir, stage) for stage in STEPS)
    assert lost_after < total < time.monotonic() - began
    leftovers = [path.name for path in workdir.rglob("*tmp*")]
    assert not leftovers


def chronometer(workdir, stage):
    """Seconds in the newest checkpoint of a stage; 0 where there is none yet."""
    checkpoints = stage_directory(workdir, stage) / "checkpoints"
    if not any(c.name.isdigit() for c in checkpoints.glob("*")):
        return 0.0
    return progress(newest(checkpoints))["seconds"]


def test_sigterm_saves_and_the_same_command_goes_on(start, expected, tmp_path):
    workdir = tmp_path / "run"
    # Nothing but the signal makes this run save before the stage's end.
    rarely = "--config.run.checkpoint_seconds=1000"
    ended = start(workdir, rarely).signal_at(signal.SIGTERM, "train", 7)
    assert ended.code == 75, ended.stderr
    saved = int(newest(stage_directory(workdir, "train") / "checkpoints").name)
    assert saved >= 7
    assert f"stopped: train: saved at step {saved} of 45" in ended.stderr
    ended = start(workdir, rarely).end()
    assert ended.code == 0, ended.stderr
    assert f"train: going on from step {saved}/45" in ended.stderr
    assert_same_bits(everything(workdir), expected)


def masked(optimizer, steps):
    return sparsify(
        optimizer,
        schedule=SCHEDULES["cubic"](0.3, Window(2, steps - 3, every=3)),
        score=SCORES["l2"],
        distribution=DISTRIBUTIONS["global"],
        structure=STRUCTURES["unstructured"],
        select=[],
    )


JOBS = {
    "parts of batches": {"accumulate": 4, "label_smoothing": 0.1, "schedule": "onecycle"},
    "adamw and patience": {"optimizer": "adamw", "lr": 0.01, "patience": 2, "eval_epochs": 0.25},
    "the best, in bfloat16": {
        "keep": "best",
        "eval_epochs": 0.25,
        "optimizer": "rmsprop",
        "lr": 1e-3,
        "precision": "bfloat16",
    },
    "masks, in float16": {"precision": "float16", "clip_norm": 1.0, "changes": {"wrap": masked}},
    "batch norm and averages": {"ema": 0.9},
}


class Normalized(nn.Module):
    """A network with batch statistics."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(8)(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(4)(nn.relu(x))


@pytest.mark.parametrize("name", JOBS)
def test_a_stopped_job_goes_on_to_the_same_bits(name, make_job):
    job, other = make_job(**JOBS[name]), make_job(**JOBS[name])
    if name.startswith("batch norm"):
        network = dataclasses.replace(job.network, module=Normalized())
        job, other = (dataclasses.replace(j, network=network) for j in (job, other))
    whole = trained(job)
    with pytest.raises(Preempted):
        trained(other, StopAt(5))
    stopped = trained(other)
    assert stopped.steps == whole.steps
    assert_same_bits(flat(stopped), flat(whole))
    if name.startswith("masks"):
        kept = [m.mean() for m in jax.tree.leaves(find_masks(stopped.opt_state)) if m.ndim > 1]
        assert all(0 < share < 0.9 for share in kept)


def test_a_finished_job_is_not_trained_again(make_job, monkeypatch):
    job = make_job()
    first = trained(job)
    monkeypatch.setattr("experiments.train.meshes.put_batch", None)  # no batch may be asked for
    again = trained(job)
    assert_same_bits(flat(again), flat(first))
    assert again.seconds == first.seconds


def test_a_stop_at_the_last_step_finishes_the_job(make_job):
    job = make_job()
    outcome = trained(job, StopAt(job.total_steps))
    assert outcome.steps == job.total_steps == 15


def test_the_chronometer_counts_every_process(make_job, monkeypatch):
    job = make_job()
    clock = iter(range(10_000))
    monkeypatch.setattr("experiments.train.time.monotonic", lambda: next(clock))
    with pytest.raises(Preempted):
        trained(job, StopAt(5))
    before = progress(newest(job.directory / "checkpoints"))["seconds"]
    assert before > 0
    outcome = trained(job)
    assert outcome.seconds > 2 * before

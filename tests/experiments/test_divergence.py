"""A loss that is not finite stops a run with names, or rolls it back to a lower rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.divergence import Diverged
from experiments.logs import METRICS, jsonl
from tests.experiments.jobs import job, trained
from tests.experiments.processes import arrays

FAST = {"optimizer": "sgd", "schedule": "constant", "lr": 0.1}


def poisoned(job, example):
    """The job with one image that its augmentation turns into infinities, and its first step."""
    job.dataset.train.inputs[example] = 255  # no other image is as bright
    return next(s for s in range(20) if (job.dataset.batch_at(job.seed, s)["input"] == 255).any())


def explode(key, images):
    del key
    return jnp.where(images.max() >= 1, jnp.inf, images)


def good_checkpoints(job):
    """The steps of a job's checkpoints, after a look at all their numbers."""
    checkpoints = job.directory / "checkpoints"
    steps = [int(c.name) for c in checkpoints.glob("*") if c.name.isdigit()]
    for step in steps:
        found = arrays(checkpoints / str(step) / "state")
        assert all(np.isfinite(a).all() for a in found.values())
    return steps


def test_a_bad_batch_stops_the_run_with_its_step_and_the_parameters(make_job):
    job = make_job(changes={"augment": explode}, **FAST)
    step = poisoned(job, example=37)
    assert 2 < step < 12
    with pytest.raises(Diverged) as caught:
        trained(job)
    message = str(caught.value)
    assert f"train: step {step}: loss nan; gradients that are not finite: 3 of 4" in message
    assert "(head/bias, head/kernel, hidden1/kernel)" in message  # NaN has no side of a ReLU
    assert "train.on_nan='rollback'" in message
    steps = good_checkpoints(job)
    assert max(steps) in (step, step - 1)
    # The log ends before the step that failed.
    logged = [r for r in jsonl.read(job.directory / METRICS) if "train/loss" in r.values]
    assert max(r.step for r in logged) == step


def brittle(limit, after):
    """Makes an optimizer whose updates are NaN where their norm passes a limit, from a step on."""

    def wrap(optimizer, steps):
        del steps

        def init(params):
            del params
            return jnp.int32(0)

        def update(updates, count, params=None):
            del params
            bad = (optax.tree.norm(updates) > limit) & (count >= after)
            return jax.tree.map(lambda u: jnp.where(bad, jnp.nan, u), updates), count + 1

        return optax.chain(optimizer, optax.GradientTransformation(init, update))

    return wrap


def test_an_update_that_is_not_finite_is_caught_before_it_is_saved(make_job):
    # The second update is NaN, from gradients that are not; after it a checkpoint is due.
    job = make_job(changes={"wrap": brittle(0.0, after=1)}, **FAST)
    assert job.every(job.run.checkpoint_epochs) == 2
    with pytest.raises(Diverged, match=r"step 1: .*; parameters after the update that are not"):
        trained(job)
    good_checkpoints(job)


# Clipped gradients without momentum: every update has the norm lr x clip_norm x rate scale.
STEADY = {**FAST, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1e-3}
NORM = STEADY["lr"] * STEADY["clip_norm"]


def distance(outcome, job):
    """How far a job's parameters came from where they started."""
    before = job.network.init(jax.random.key(0))
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, outcome.variables, before)))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """How far they come at the full rate."""
    made = job(tmp_path_factory.mktemp("calm"), changes={"wrap": brittle(np.inf, 6)}, **STEADY)
    return distance(trained(made), made)


@pytest.mark.parametrize(("limit", "scale"), [(0.6, 0.5), (0.3, 0.25), (0.15, 0.125)])
def test_rollback_goes_on_at_half_the_rate_until_it_works(limit, scale, make_job, calm, caplog):
    wrap = brittle(limit * NORM, after=6)
    job = make_job(changes={"wrap": wrap}, on_nan="rollback", **STEADY)
    outcome = trained(job)
    assert outcome.steps == job.total_steps
    assert optax.tree_utils.tree_get(outcome.opt_state, "rate_scale") == scale
    rollbacks = round(-np.log2(scale))
    assert caplog.text.count("rolling back, learning rate x") == rollbacks
    assert f"learning rate x {scale:g}" in caplog.text
    assert "parameters after the update that are not finite: 4 of 4" in caplog.text
    # The first six steps are as they were; those after them are smaller.
    share = distance(outcome, job) / calm
    assert share == pytest.approx((6 + 9 * scale) / 15, rel=0.1)


def test_rollback_gives_up_after_three_times(make_job, caplog):
    wrap = brittle(0.05 * NORM, after=6)
    job = make_job(changes={"wrap": wrap}, on_nan="rollback", **STEADY)
    with pytest.raises(Diverged, match="step 6: "):
        trained(job)
    assert caplog.text.count("rolling back") == 3
    assert max(good_checkpoints(job)) == 6
    with pytest.raises(Diverged):  # and so does the same command
        trained(job)


def test_a_run_ends_with_its_exit_code_and_one_line(start, tmp_path):
    ended = start(tmp_path / "run", "--config.train.lr=1e30").end()
    assert ended.code == 3, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: train: step ")
    assert "not finite" in last
    assert "Traceback" not in ended.stderr

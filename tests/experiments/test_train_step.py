"""One step of training, against NumPy and against itself in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import train_step
from experiments.data.augment import build
from slim import paths
from tests.experiments import jobs

PLAIN = {"name": "mlp", "hidden": (16,), "dropout": 0.0}
SGD = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1}


@pytest.fixture
def job(tmp_path, keep_compiled):
    return functools.partial(jobs.job, tmp_path)


def batch(job, step=0):
    return {name: jnp.asarray(rows) for name, rows in job.dataset.batch_at(job.seed, step).items()}


def start(job, scale=1.0):
    return train_step.start(
        job.network.init(jax.random.key(0)),
        job.optimizer,
        seed=job.seed,
        initial_scale=scale,
        ema=job.config.ema > 0,
    )


def step_of(job, give_gradients=True):
    return jax.jit(
        train_step.make_step(
            job.minimized,
            job.optimizer,
            job.rate,
            job.config,
            job.augment,
            give_gradients=give_gradients,
        )
    )


def assert_close(found, expected, **tolerance):
    found, expected = paths.flatten(found), paths.flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, err_msg=path, **tolerance)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_gives_the_step_of_the_whole(job, parts):
    whole, split = job(model=PLAIN, **SGD), job(model=PLAIN, accumulate=parts, **SGD)
    (one, seen), (other, also) = (step_of(j)(start(j), batch(j)) for j in (whole, split))
    assert_close(other.params, one.params, rtol=1e-5, atol=1e-6)
    assert_close(also["gradients"], seen["gradients"], rtol=1e-4, atol=1e-6)
    for name in ("loss", "top1", "gradient_norm"):
        np.testing.assert_allclose(also[name], seen[name], rtol=1e-5)


def test_the_average_is_that_of_numpy(job):
    made = job(model=PLAIN, ema=0.6, **SGD)
    step, state = step_of(made), start(made)
    average = jax.device_get(state.params)
    for t in range(9):  # the decay reaches its cap of 0.6 at step 8
        state, _ = step(state, batch(made, t))
        weight = 1 - min(0.6, (1 + t) / (10 + t))
        average = jax.tree.map(
            lambda a, p, w=weight: a + w * (np.asarray(p) - a), average, state.params
        )
    assert_close(state.average["params"], average, rtol=1e-5, atol=1e-7)
    assert_close(train_step.result(state)["params"], state.average["params"], rtol=0)


def test_the_average_of_float16_parameters_keeps_small_steps(job):
    made = job(model=PLAIN, precision="float16", ema=0.999, **SGD)
    state = start(made)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.average))
    state = state._replace(step=jnp.int32(100_000))
    after, _ = step_of(made)(state, batch(made))
    moved = jax.tree.map(
        lambda new, old, mean: (mean - old.astype(jnp.float32), new.astype(jnp.float32) - old),
        after.params,
        jax.tree.map(lambda p: p.astype(jnp.float32), state.params),
        after.average["params"],
    )
    mean, full = moved["head"]["kernel"]
    np.testing.assert_allclose(mean, 0.001 * full, rtol=0.01, atol=1e-7)
    assert float(jnp.abs(mean).max()) > 0
    given = train_step.result(after)["params"]
    assert jax.tree.map(lambda p: p.dtype, given) == jax.tree.map(lambda p: p.dtype, after.params)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_with_smoothed_targets(job, smoothing):
    made = job(model=PLAIN, label_smoothing=smoothing, **SGD)
    state, rows = start(made), batch(made)
    _, metrics = step_of(made)(state, rows)
    logits = made.network.predict({"params": state.params}, rows["input"].astype(jnp.float32) / 255)
    logits = np.asarray(logits, np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = np.eye(jobs.LABELS)[np.asarray(rows["label"])] * (1 - smoothing)
    targets += smoothing / jobs.LABELS
    assert float(metrics["loss"]) == pytest.approx(-(targets * logs).sum(-1).mean(), rel=1e-5)


def test_plain_sgd_moves_by_the_gradient(job):
    made = job(model=PLAIN, **SGD)
    state = start(made)
    after, metrics = step_of(made)(state, batch(made))
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, metrics["gradients"])
    assert_close(after.params, expected, rtol=1e-6, atol=1e-7)
    assert float(metrics["gradient_norm"]) == pytest.approx(
        float(optax.tree.norm(metrics["gradients"])), rel=1e-6
    )
    assert int(after.step) == 1


def test_every_step_has_its_own_randomness_and_every_run_the_same(job):
    made = job()  # with dropout
    state, rows = start(made), batch(made)
    step = step_of(made)
    first, again = (step(state, rows)[1]["loss"] for _ in range(2))
    assert first == again
    later = step(state._replace(step=jnp.int32(1)), rows)[1]["loss"]
    assert later != first


def test_an_augmentation_sees_pixels_from_0_to_1(job):
    seen = []

    def augment(key, images):
        seen.append((images.dtype, images.shape))
        return images * 0

    made = job(model=PLAIN, changes={"augment": augment}, **SGD)
    _, metrics = step_of(made)(start(made), batch(made))
    assert seen == [(jnp.float32, (8, 8, 8, 1))]
    black = job(model=PLAIN, changes={"augment": build([])}, **SGD)
    rows = batch(black) | {"input": jnp.zeros((8, 8, 8, 1), jnp.uint8)}
    assert step_of(black)(start(black), rows)[1]["loss"] == metrics["loss"]


def test_a_second_step_is_not_compiled_again(job):
    made = job(ema=0.9, accumulate=2, optimizer="sgd")
    step = step_of(made, give_gradients=False)
    state, metrics = step(start(made), batch(made))
    assert "gradients" not in metrics
    step(state, batch(made, 1))
    assert step._cache_size() == 1


def spoiled(job):
    """The job with an augmentation that makes every loss infinite."""
    return job(model=PLAIN, changes={"augment": lambda key, images: images * jnp.inf}, **SGD)


def assert_nothing_moved(after, before):
    for part in ("params", "collections", "opt_state", "average"):
        assert_close(getattr(after, part), getattr(before, part), rtol=0)


def test_a_step_that_is_not_finite_fails_and_nothing_moves_any_more(job):
    bad, good = spoiled(job), job(model=PLAIN, **SGD)
    state = start(bad)._replace(step=jnp.int32(5))
    after, metrics = step_of(bad)(state, batch(bad))
    assert int(after.failed) == int(metrics["failed"]) == 5
    assert int(after.step) == 6
    assert_nothing_moved(after, state)
    later, metrics = step_of(good)(after, batch(good))
    assert int(metrics["failed"]) == 5
    assert np.isfinite(metrics["loss"])
    assert_nothing_moved(later, state)


def test_with_a_loss_scale_to_lower_a_bad_step_is_left_out(job):
    bad, good = spoiled(job), job(model=PLAIN, **SGD)
    state = start(bad, scale=4.0)
    for step, scale in enumerate([2.0, 1.0], start=1):
        state, metrics = step_of(bad)(state, batch(bad))
        assert int(metrics["failed"]) == -1
        assert float(state.loss_scale.scale) == scale
        assert int(state.step) == step
        assert_nothing_moved(state, start(bad))
    state, _ = step_of(good)(state, batch(good))
    assert_close(state.params, step_of(good)(start(good), batch(good))[0].params, rtol=1e-6)
    state, metrics = step_of(bad)(state, batch(bad))  # nothing is left to lower
    assert int(metrics["failed"]) == 3


def test_float16_gradients_that_overflow_lower_the_scale_until_they_fit(job):
    made = job(model=PLAIN, precision="float16", **SGD)
    step, state, rows = step_of(made), start(made, scale=2.0**24), batch(made)
    skipped = 0
    while True:
        before = state
        state, metrics = step(state, rows)
        if np.isfinite(metrics["gradient_norm"]):
            break
        skipped += 1
        assert_nothing_moved(state, before)
    assert skipped > 0
    assert float(state.loss_scale.scale) == 2.0 ** (24 - skipped)
    assert int(state.failed) == -1
    # What fits in float16 is nearly the float32 gradient.
    exact = job(model=PLAIN, **SGD)
    _, expected = step_of(exact)(start(exact), batch(exact))
    assert_close(metrics["gradients"], expected["gradients"], rtol=0.02, atol=2e-3)


def test_a_loss_scale_does_not_change_the_gradient(job):
    made = job(model=PLAIN, **SGD)
    (one, _), (other, _) = (step_of(made)(start(made, s), batch(made)) for s in (1.0, 2.0**10))
    assert_close(other.params, one.params, rtol=1e-6, atol=1e-7)

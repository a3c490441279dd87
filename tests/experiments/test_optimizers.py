"""Every optimizer and schedule by name, against its formula where that is short."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import optimizers
from experiments.optimizers import OPTIMIZERS, SCHEDULES, OptimizerConfig
from experiments.schema import ConfigError, parse

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([0.25, -0.5])}
GRADS = jax.tree.map(lambda p: 0.1 * p + 0.05, PARAMS)
STEPS = 100


@pytest.fixture(autouse=True)
def _promotion():
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        yield


def built(**fields):
    config = OptimizerConfig(**{"schedule": "constant", **fields})
    return optimizers.build(config, optimizers.learning_rate(config, STEPS, 10))


def updates(optimizer, steps=3, grads=GRADS):
    """The updates of some steps with one gradient."""
    state, found = optimizer.init(PARAMS), []
    for _ in range(steps):
        update, state = jax.jit(optimizer.update)(grads, state, PARAMS)
        found.append(update)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_the_contract(name):
    optimizer = built(optimizer=name, lr=0.05, clip_norm=1.0)
    abstract = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), PARAMS)
    shapes = jax.eval_shape(optimizer.init, abstract)
    state = optimizer.init(PARAMS)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), shapes) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))(params)
        update, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, update), state

    params = PARAMS
    for _ in range(200):
        params, state = step(params, state)
    assert step._cache_size() == 1
    assert float(optax.tree.norm(params)) < 0.05 * float(optax.tree.norm(PARAMS))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_on_kernels_only(name):
    still = jax.tree.map(jnp.zeros_like, GRADS)
    (update,) = updates(built(optimizer=name, lr=0.1, weight_decay=0.01), steps=1, grads=still)
    assert (jnp.sign(update["kernel"]) == -jnp.sign(PARAMS["kernel"])).all()
    assert not update["bias"].any()
    (update,) = updates(built(optimizer=name, lr=0.1, weight_decay=0.0), steps=1, grads=still)
    assert not update["kernel"].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_scale_halves_every_update(name):
    optimizer = built(optimizer=name)
    state = optimizer.init(PARAMS)
    full, _ = optimizer.update(GRADS, state, PARAMS)
    half, kept = optimizer.update(GRADS, optimizers.set_rate_scale(state, 0.5), PARAMS)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        np.testing.assert_array_equal(a, 0.5 * b)
    assert optax.tree_utils.tree_get(kept, "rate_scale") == 0.5  # and it stays


def test_sgd_is_nesterov_momentum():
    found = updates(built(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.01))
    grads = {"kernel": GRADS["kernel"] + 0.01 * PARAMS["kernel"], "bias": GRADS["bias"]}
    for name, grad in grads.items():
        velocity = np.zeros_like(grad)
        for update in found:
            velocity = 0.9 * velocity + np.asarray(grad)
            np.testing.assert_allclose(
                update[name], -0.1 * (np.asarray(grad) + 0.9 * velocity), rtol=1e-5
            )


def test_sgd_without_momentum_keeps_no_velocity():
    (update,) = updates(built(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0), steps=1)
    np.testing.assert_allclose(update["bias"], -0.1 * GRADS["bias"], rtol=1e-6)
    state = built(optimizer="sgd", momentum=0.0).init(PARAMS)
    assert not any(leaf.ndim for leaf in jax.tree.leaves(state))


def test_adamw_starts_with_steps_of_the_learning_rate():
    (update,) = updates(built(optimizer="adamw", lr=0.1, weight_decay=0.0), steps=1)
    for leaf, grad in zip(jax.tree.leaves(update), jax.tree.leaves(GRADS), strict=True):
        np.testing.assert_allclose(leaf, -0.1 * np.sign(grad), rtol=1e-4)


def test_gradients_are_clipped_by_their_common_norm():
    norm = float(optax.tree.norm(GRADS))
    options = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    (clipped,) = updates(built(clip_norm=norm / 4, **options), steps=1)
    assert float(optax.tree.norm(clipped)) == pytest.approx(norm / 4, rel=1e-5)
    (whole,) = updates(built(clip_norm=0.0, **options), steps=1)
    assert float(optax.tree.norm(whole)) == pytest.approx(norm, rel=1e-5)


def rate(step, **fields):
    config = OptimizerConfig(**{"lr": 0.4, **fields})
    return float(optimizers.learning_rate(config, STEPS, 10)(jnp.int32(step)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_a_pure_function_of_the_step(name):
    schedule = optimizers.learning_rate(OptimizerConfig(schedule=name, lr=0.4), STEPS, 10)
    rates = jax.jit(jax.vmap(schedule))(jnp.arange(STEPS + 5))
    assert rates.shape == (STEPS + 5,)
    assert float(rates.max()) == pytest.approx(0.4, rel=1e-3)
    assert float(rates.min()) >= 0
    assert float(schedule(17)) == pytest.approx(float(rates[17]), rel=1e-6)
    one = optimizers.learning_rate(OptimizerConfig(schedule=name), 1, 1)  # the shortest run
    assert np.isfinite(float(one(0)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.4, 50: 0.4, 100: 0.4}),
        ({"schedule": "cosine"}, {0: 0.4, 50: 0.2, 100: 0.0}),
        ({"schedule": "cosine", "end_lr": 0.1}, {0: 0.4, 50: 0.25, 100: 0.1}),
        ({"schedule": "linear", "end_lr": 0.1}, {0: 0.4, 50: 0.25, 100: 0.1}),
        ({"schedule": "steps"}, {0: 0.4, 49: 0.4, 51: 0.04, 76: 0.004, 100: 0.004}),
        ({"schedule": "cosine", "warmup_epochs": 2.0}, {0: 0.0, 10: 0.2, 20: 0.4, 60: 0.2}),
        ({"schedule": "constant", "warmup_epochs": 50.0}, {0: 0.0, 50: 0.2, 99: 0.396}),
    ],
)
def test_schedules_go_through_their_points(fields, expected):
    found = {step: rate(step, **fields) for step in expected}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_one_cycle_rises_and_falls():
    rates = [rate(step, schedule="onecycle") for step in (0, 30, 100)]
    assert rates[0] < rates[1] == pytest.approx(0.4, rel=1e-3)
    assert rates[2] < rates[0]


@pytest.mark.parametrize(
    ("field", "wrong", "near"), [("optimizer", "adam", "adamw"), ("schedule", "cosin", "cosine")]
)
def test_an_unknown_name_is_refused_with_the_nearest(field, wrong, near):
    with pytest.raises(
        ConfigError, match=f"{field}: unknown name '{wrong}'; did you mean '{near}'"
    ):
        parse(OptimizerConfig, {field: wrong}, "train")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacked_scales_of_norms_do_not_decay(name):
    optimizer = built(optimizer=name, lr=0.1, weight_decay=0.5)
    params = {"norm": {"scale": jnp.ones((3, 4))}, "mlp": {"up": jnp.ones((3, 4, 2))}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert not np.any(update["norm"]["scale"])
    assert np.all(np.asarray(update["mlp"]["up"]) < 0)

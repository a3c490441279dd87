"""The contract of every attack, and its exact effect on a linear model."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.measure.attacks import ATTACKS, pgd
from slim.measure.classification import cross_entropy

SHAPE = (6, 5, 4, 3)
every_attack = pytest.mark.parametrize("name", sorted(ATTACKS))


@pytest.fixture(scope="module")
def images() -> jax.Array:
    return jax.random.uniform(jax.random.key(1), SHAPE)


@pytest.fixture(scope="module")
def labels() -> jax.Array:
    return jnp.array([0, 1, 1, 0, 1, 0])


@pytest.fixture(scope="module")
def weights() -> jax.Array:
    return jax.random.normal(jax.random.key(2), SHAPE[1:])


@pytest.fixture(scope="module")
def linear(weights):
    """Two classes with logits 0 and w.x."""

    def logits(x: jax.Array) -> jax.Array:
        score = jnp.einsum("bhwc,hwc->b", x, weights)
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    return logits


FIRST = np.random.default_rng(3).normal(size=(60, 16)).astype(np.float32)
SECOND = np.random.default_rng(4).normal(size=(16, 3)).astype(np.float32)


def mlp(x: jax.Array) -> jax.Array:
    return jnp.tanh(x.reshape(len(x), -1) @ FIRST) @ SECOND


ON_MLP = {name: jax.jit(partial(attack, mlp)) for name, attack in ATTACKS.items()}


@every_attack
@pytest.mark.parametrize("epsilon", [2 / 255, 0.3])
def test_stays_in_the_ball_and_in_range(name, epsilon, images, labels):
    attacked = ON_MLP[name](jax.random.key(0), images, labels, epsilon)
    chex.assert_equal_shape([attacked, images])
    assert attacked.dtype == images.dtype
    assert float(jnp.abs(attacked - images).max()) <= epsilon + 1e-7
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1


@every_attack
def test_epsilon_zero_is_the_identity(name, images, labels):
    attacked = ON_MLP[name](jax.random.key(0), images, labels, 0.0)
    np.testing.assert_array_equal(attacked, images)


@every_attack
@pytest.mark.parametrize("epsilon", [2 / 255, 0.2])
def test_reaches_the_worst_of_a_linear_model(name, epsilon, images, labels, weights, linear):
    # The loss of a linear model grows along one sign of w alone, so its worst image in the ball
    # is known: every pixel as far as it may go.
    attack = jax.jit(partial(ATTACKS[name], linear))
    attacked = attack(jax.random.key(0), images, labels, epsilon)
    away = jnp.where(labels == 1, -1.0, 1.0)[:, None, None, None] * jnp.sign(weights)
    np.testing.assert_allclose(attacked, jnp.clip(images + epsilon * away, 0, 1), atol=1e-6)
    before, after = (cross_entropy(linear(x), labels) for x in (images, attacked))
    assert bool(jnp.all(after > before))


@every_attack
def test_raises_the_loss_of_a_nonlinear_model(name, images, labels):
    attacked = ON_MLP[name](jax.random.key(0), images, labels, 4 / 255)
    before, after = (cross_entropy(mlp(x), labels).mean() for x in (images, attacked))
    assert float(after) > float(before)


@every_attack
def test_one_program_serves_every_epsilon_and_key(name, images, labels):
    traces = []

    def counted(x: jax.Array) -> jax.Array:
        traces.append(x.shape)
        return mlp(x)

    attack = jax.jit(partial(ATTACKS[name], counted))
    first = attack(jax.random.key(0), images, labels, jnp.float32(0.01))
    traced = len(traces)
    other = attack(jax.random.key(1), images, labels, jnp.float32(0.02))
    np.testing.assert_array_equal(
        attack(jax.random.key(0), images, labels, jnp.float32(0.01)), first
    )
    assert bool(jnp.any(first != other))
    assert len(traces) == traced > 0


@every_attack
def test_rows_do_not_see_each_other(name, images, labels):
    attack = partial(ON_MLP[name], jax.random.key(0))
    changed = images.at[1:].set(0.5)
    np.testing.assert_allclose(
        attack(images, labels, 0.05)[0], attack(changed, labels, 0.05)[0], atol=1e-6
    )


def test_pgd_starts_at_random_and_is_stronger_with_more_steps(images, labels):
    def attack(seed: int, **settings: float) -> jax.Array:
        fn = jax.jit(partial(pgd, mlp, **settings))
        return fn(jax.random.key(seed), images, labels, 0.05)

    starts = [attack(seed, steps=1, step_size=0.0) for seed in (0, 1)]
    assert bool(jnp.any(starts[0] != starts[1]))
    assert float(jnp.abs(starts[0] - images).max()) > 0.04
    few, many = (cross_entropy(mlp(attack(0, steps=n)), labels).mean() for n in (1, 20))
    assert float(many) > float(few)

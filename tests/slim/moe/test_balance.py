from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.moe import AUXILIARY_LOSSES, ROUTERS, Routing, load, max_violation, update_bias
from tests.slim.moe import references

BATCH, LENGTH, EXPERTS, K = 3, 10, 6, 2


@cache
def routed(name, seed=0):
    logits = 2 * jax.random.normal(jax.random.key(seed), (BATCH, LENGTH, EXPERTS))
    bias = jax.random.normal(jax.random.key(seed + 1), (EXPERTS,))
    return logits, jax.jit(ROUTERS[name](K).route)(logits, bias)


def by_loops(loss, logits, routing):
    """Each loss as its paper's sums, an expert and a token at a time."""
    if loss == "z":
        return np.mean(np.log(np.exp(np.asarray(logits, np.float64)).sum(-1)) ** 2)
    experts, scores = np.asarray(routing.experts), np.asarray(routing.scores, np.float64)
    if loss == "switch":
        experts, scores = experts.reshape(1, -1, K), scores.reshape(1, -1, EXPERTS)
    values = []
    for chosen, each in zip(experts, scores, strict=True):
        length, total = len(each), 0.0
        for i in range(EXPERTS):
            share = sum(s[i] / s.sum() for s in each) / length
            if loss == "switch":
                f = EXPERTS * sum(i in c for c in chosen) / (K * length)
            elif loss == "gshard":
                f = sum(c[0] == i for c in chosen) / length / EXPERTS
            else:
                f = EXPERTS / (K * length) * sum(i in references.best(s, K) for s in each)
            total += f * share
        values.append(total)
    return np.mean(values)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("loss", AUXILIARY_LOSSES)
def test_losses_are_the_papers_sums(loss, router):
    logits, routing = routed(router)
    found = jax.jit(AUXILIARY_LOSSES[loss])(logits, routing)
    np.testing.assert_allclose(found, by_loops(loss, logits, routing), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "value"), [("switch", 1.0), ("sequence", 1.0), ("gshard", 1 / EXPERTS**2)]
)
def test_balance_has_the_value_that_is_documented(loss, value):
    # Token t prefers expert t, then t + 1; every expert is first, and second, once.
    scores = jnp.eye(EXPERTS) * 0.4 + jnp.roll(jnp.eye(EXPERTS), 1, 1) * 0.2 + 0.1
    routing = Routing(jax.lax.top_k(scores, 2)[1], None, scores)
    found = AUXILIARY_LOSSES[loss](jnp.log(scores), routing)
    np.testing.assert_allclose(found, value, rtol=1e-6)


@pytest.mark.parametrize("loss", AUXILIARY_LOSSES)
def test_a_step_against_the_gradient_lowers_the_loss(loss):
    def value(logits):
        return AUXILIARY_LOSSES[loss](logits, ROUTERS["sigmoid"](K).route(logits))

    logits = routed("sigmoid")[0] + jnp.linspace(0, 3, EXPERTS)
    before, gradient = jax.jit(jax.value_and_grad(value))(logits)
    assert value(logits - 0.5 * gradient / jnp.abs(gradient).max()) < before


def test_the_bias_moves_by_gamma_towards_the_mean():
    bias = jnp.array([0.5, 0.0, -0.5, 1.0])
    moved = update_bias(bias, jnp.array([9, 4, 0, 3]), 1e-3)
    np.testing.assert_allclose(moved - bias, [-1e-3, 0, 1e-3, 1e-3], atol=1e-7)
    # As means of devices, or of other units.
    np.testing.assert_array_equal(update_bias(bias, jnp.array([9, 4, 0, 3]) / 8, 1e-3), moved)
    layers = update_bias(jnp.stack([bias, bias]), jnp.array([[9, 4, 0, 3], [2, 2, 2, 2]]), 1e-3)
    np.testing.assert_array_equal(layers, jnp.stack([moved, bias]))


@pytest.mark.parametrize("gamma", [0, -1e-3, float("nan")])
def test_steps_that_do_not_balance(gamma):
    with pytest.raises(ValueError, match=f"gamma is {gamma}; allowed: above 0"):
        update_bias(jnp.zeros(2), jnp.ones(2), gamma)


def test_the_bias_balances_a_skewed_router():
    router = ROUTERS["sigmoid"](2, groups=4, groups_kept=2)
    logits = jax.random.normal(jax.random.key(0), (512, 8)) + jnp.linspace(-1, 1, 8)

    @jax.jit
    def step(bias):
        loads = load(router.route(logits, bias), 8)
        return update_bias(bias, loads, 5e-3), max_violation(loads)

    bias, before = step(jnp.zeros(8))
    for _ in range(150):
        bias, after = step(bias)
    assert before > 0.9
    assert after < 0.1

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.moe import capacity, expert_choice, mix_by_choice
from slim.moe.experts import Experts, swiglu_rows
from tests.slim.moe import references

TOKENS, EXPERTS, WIDTH, HIDDEN = 12, 4, 5, 3


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    # Rounded, so that scores tie.
    logits = np.round(2 * rng.normal(size=(TOKENS, EXPERTS)))
    wide, back = (EXPERTS, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH)
    x, gate, up, down = (rng.normal(size=s) for s in ((TOKENS, WIDTH), wide, wide, back))
    return jax.tree.map(jnp.float32, (logits, x, Experts(gate, up, down)))


def by_loops(logits, x, experts, choices):
    scores = jax.nn.softmax(logits)
    y = [jnp.zeros(WIDTH) for _ in x]
    for e, tokens in enumerate(choices):
        own = jax.tree.map(lambda leaf: leaf[e], experts)  # noqa: B023
        for t in tokens:
            y[t] += scores[t, e] * swiglu_rows(jnp.matmul, own, x[t])
    return jnp.stack(y)


def by_choice(logits, x, experts, count):
    return mix_by_choice(experts, x, expert_choice(logits, count))


def with_gradients(fn, choices):
    def value(*args):
        y = fn(*args, choices)
        return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum(), y

    return jax.value_and_grad(value, (0, 1, 2), has_aux=True)


@pytest.mark.parametrize("count", [1, 5])
def test_equals_the_loop_with_gradients(count):
    given = inputs()
    scores = np.asarray(jax.nn.softmax(given[0]))
    choices = [references.best(scores[:, e], count) for e in range(EXPERTS)]
    np.testing.assert_array_equal(expert_choice(given[0], count).tokens, choices)
    (_, y), gradients = jax.jit(with_gradients(by_choice, count))(*given)
    (_, expected_y), expected = jax.jit(with_gradients(by_loops, choices))(*given)
    np.testing.assert_allclose(y, expected_y, atol=1e-5)
    chex.assert_trees_all_close(gradients, expected, atol=1e-5)


def test_no_direction_scatters():
    program = str(jax.make_jaxpr(with_gradients(by_choice, 5))(*inputs()))
    assert "gather" in program
    assert "scatter" not in program


def test_of_equal_scores_the_earlier_token_goes_first():
    choice = expert_choice(jnp.zeros((8, 2), jnp.bfloat16), 3)
    np.testing.assert_array_equal(choice.tokens, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(choice.gates, jnp.full((2, 3), 0.5, jnp.float32))


@pytest.mark.parametrize("factor", [0.0, 4.5])
def test_factors_that_cannot_be(factor):
    with pytest.raises(ValueError, match=f"factor is {factor}; allowed: above 0, at most the 4"):
        capacity(TOKENS, EXPERTS, factor)


@pytest.mark.parametrize("count", [0, TOKENS + 1])
def test_capacities_that_cannot_be(count):
    with pytest.raises(ValueError, match=f"capacity is {count}; allowed: 1 to the 12 tokens"):
        expert_choice(jnp.zeros((TOKENS, EXPERTS)), count)


def test_capacity_holds_the_average():
    assert capacity(10, 4, 1.25) == 4
    assert capacity(TOKENS, EXPERTS, EXPERTS) == TOKENS

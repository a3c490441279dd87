from functools import cache

import chex
import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.moe import ROUTERS
from slim.moe.routing import highest, sigmoid, softmax
from tests.slim.moe import references

TOKENS, EXPERTS = 6, 16
MADE = {
    "V3": sigmoid(4, groups=8, groups_kept=4),
    "V2": softmax(3, scale=16.0, groups=4, groups_kept=2),
    "V2 lite": softmax(6),
    "groups of one": sigmoid(2, groups=16, groups_kept=3),
    "GShard": softmax(2, normalize=True),
    "sums of groups": softmax(5, groups=2, groups_kept=1, group_score="top_two"),
    "best of groups": sigmoid(5, normalize=False, groups=2, groups_kept=1, group_score="best"),
    "all": sigmoid(16, groups=4, groups_kept=4),
}
every_router = pytest.mark.parametrize("router", MADE.values(), ids=MADE)

# Steps of a half make ties within and across groups; far ones make scores of zero.
values = st.sampled_from([-200.0, -3.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 80.0])
biases = st.sampled_from([-5.0, -2.0, -0.5, 0.0, 0.25, 1.0])


@cache
def compiled(router):
    return jax.jit(router.route)


def check(router, logits, bias):
    """Scores to rounding; from the very same scores, the same experts and gates."""
    routing = jax.tree.map(np.asarray, compiled(router)(logits, bias))
    expected = references.affinities(np.asarray(logits, np.float32), router.name)
    np.testing.assert_allclose(routing.scores, expected, rtol=1e-5, atol=1e-37)
    shift = np.float32(0) if bias is None else bias.astype(np.float32)
    for scores, experts, gates in zip(routing.scores, routing.experts, routing.gates, strict=True):
        chosen = references.choose(scores + shift, router)
        assert experts.tolist() == chosen
        expected = references.weigh(scores, chosen, router)
        np.testing.assert_allclose(gates, expected, rtol=1e-6, atol=1e-37)


@every_router
@hypothesis.given(st.data())
@hypothesis.settings(max_examples=25)
def test_routes_as_the_reference(router, data):
    logits = data.draw(arrays.arrays(np.float32, (TOKENS, EXPERTS), elements=values))
    bias = data.draw(st.none() | arrays.arrays(np.float32, EXPERTS, elements=biases))
    check(router, logits, bias)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_router_of_v3(dtype):
    rng = np.random.default_rng(0)
    router = ROUTERS["sigmoid"](8, groups=8, groups_kept=4)
    check(router, jnp.asarray(rng.normal(size=(20, 256)), dtype), rng.normal(size=256) / 4)


@every_router
def test_equal_scores(router):
    experts, gates, _ = compiled(router)(jnp.ones((TOKENS, EXPERTS)), None)
    np.testing.assert_array_equal(experts, [range(router.k)] * TOKENS)
    share = {"sigmoid": jax.nn.sigmoid(1.0), "softmax": 1 / EXPERTS}[router.name]
    expected = router.scale * (1 / router.k if router.normalize else share)
    np.testing.assert_allclose(gates, np.full((TOKENS, router.k), expected), rtol=1e-6)


def test_groups_stay_closed_where_all_biased_scores_are_negative():
    # The second group wins by one expert; the rest of it is below all of the first.
    bias = jnp.array([-2.0, -2.0, -2.0, -1.0, -9.0, -9.0])
    router = sigmoid(3, groups=2, groups_kept=1, group_score="best")
    np.testing.assert_array_equal(router.route(jnp.zeros((1, 6)), bias).experts, [[3, 4, 5]])


def test_minus_infinity_closes_an_expert():
    logits = jax.random.normal(jax.random.key(0), (64, EXPERTS))
    bias = jnp.zeros(EXPERTS).at[jnp.array([0, 5, 6])].set(-jnp.inf)
    router = sigmoid(4, groups=4, groups_kept=2)
    routing = compiled(router)(logits, bias)
    assert not np.isin(routing.experts, [0, 5, 6]).any()
    assert np.isfinite(routing.gates).all()


def test_the_highest_are_distinct_whatever_they_are():
    rows = jnp.array([[-jnp.inf] * 4, [jnp.nan, 1, jnp.inf, 1], [jnp.inf, -jnp.inf, 2, jnp.inf]])
    np.testing.assert_array_equal(highest(rows, 4), jax.lax.top_k(rows, 4)[1])


def test_leading_dimensions():
    logits = jax.random.normal(jax.random.key(0), (2, 3, EXPERTS))
    router = MADE["V3"]
    flat = jax.tree.map(
        lambda a: a.reshape(2, 3, -1), compiled(router)(logits.reshape(6, -1), None)
    )
    chex.assert_trees_all_equal(compiled(router)(logits, None), flat)


@pytest.mark.parametrize("router", [MADE["V3"], MADE["V2"]], ids=["V3", "V2"])
def test_gradients_are_those_of_taking_the_scores(router):
    logits = jax.random.normal(jax.random.key(0), (TOKENS, EXPERTS))
    bias = jax.random.normal(jax.random.key(1), (EXPERTS,))
    weights = jnp.cos(jnp.arange(TOKENS * router.k, dtype=jnp.float32)).reshape(TOKENS, -1)
    experts = compiled(router)(logits, bias).experts

    def taken(logits):
        gates = jnp.take_along_axis(router.affinity(logits), experts, -1)
        if router.normalize:
            gates = gates / gates.sum(-1, keepdims=True)
        return (weights * gates * router.scale).sum()

    def routed(logits, bias):
        return (weights * router.route(logits, bias).gates).sum()

    gradient, none = jax.jit(jax.grad(routed, (0, 1)))(logits, bias)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(taken))(logits), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(none, 0)
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(routed))(logits, bias))


def test_scores_of_zero_have_finite_gates_and_gradients():
    @jax.jit
    def total(logits):
        return jax.value_and_grad(lambda x: MADE["V3"].route(x).gates.sum())(logits)

    gates, gradient = total(jnp.full((2, EXPERTS), -200.0))
    assert gates == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k is 0; a token needs at least 1"),
        ({"k": 2, "scale": 0.0}, "scale is 0.0; allowed: above 0"),
        ({"k": 2, "groups": 0}, "groups is 0; allowed: 1 or more"),
        ({"k": 2, "groups": 4, "groups_kept": 5}, "groups_kept is 5; allowed: 1 to groups = 4"),
        ({"k": 2, "groups": 4, "groups_kept": 0}, "groups_kept is 0; allowed: 1 to groups = 4"),
        ({"k": 2, "group_score": "top_tow"}, "'top_tow'; did you mean 'top_two'"),
    ],
)
@pytest.mark.parametrize("make", ROUTERS.values(), ids=ROUTERS)
def test_routers_that_cannot_be(make, given, message):
    with pytest.raises(ValueError, match=message):
        make(**given)


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (sigmoid(9), "k is 9; allowed: at most the 8 experts"),
        (sigmoid(2, groups=3, groups_kept=2), "groups is 3; it must divide the 8 experts"),
        (softmax(3, groups=4, groups_kept=1), "groups_kept = 1 of 4 groups of 2 hold 2 experts"),
    ],
)
def test_numbers_of_experts_that_do_not_fit(router, message):
    for call in (router.check, lambda count: router.route(jnp.zeros((3, count)))):
        with pytest.raises(ValueError, match=message):
            call(8)

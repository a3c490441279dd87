import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.dynamic.layer_plan import LayerPlan, assign, by_importance, prefixes
from slim.dynamic.planner import fit_plan, outcome, plan_by_shares, shares_within, shuffled

COSTS = np.array([1.0, 2.5, 3.0])


@pytest.fixture(scope="module")
def held_out():
    """Complexities, some of them equal, and who is right: deeper is better, the more so if hard."""
    rng = np.random.default_rng(0)
    complexity = np.round(rng.random(200), 2).astype(np.float32)
    chance = 1 - complexity[:, None] * np.array([0.5, 0.3, 0.1])
    return complexity, rng.random((200, 3)) < chance


@pytest.mark.parametrize("budget", [1.0, 1.7, 2.2, 2.6, 9.0])
def test_the_plan_is_the_best_of_all(held_out, budget):
    complexity, right = held_out
    plan = fit_plan(complexity, right, prefixes(3), COSTS, budget, buckets=4)
    got = outcome(assign(plan, jnp.asarray(complexity)), right, COSTS)
    every = [
        outcome(
            np.asarray(options)[np.searchsorted(np.float32(plan.edges), complexity, side="right")],
            right,
            COSTS,
        )
        for options in itertools.product(range(3), repeat=4)
    ]
    within = [each for each in every if each.cost <= budget + 1e-9]
    best = max(each.accuracy for each in within)
    assert got.accuracy == best
    assert got.cost == min(each.cost for each in within if each.accuracy == best)


def test_buckets_are_of_equal_shares_as_far_as_ties_allow():
    complexity = np.array([0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    plan = fit_plan(complexity, np.ones((8, 1)), prefixes(1), [1.0], 1.0, buckets=4)
    # A cut among the zeros would be after 2 of 8; after 3 is nearest, and 4 and 6 are possible.
    np.testing.assert_allclose(plan.edges, [0.1, 0.2, 0.4], rtol=1e-6)
    alike = fit_plan(np.ones(5), np.ones((5, 1)), prefixes(1), [1.0], 1.0, buckets=4)
    assert alike.edges == ()


@pytest.mark.parametrize("shares", [(0.5, 0.25, 0.25), (0.5, 0, 0.5), (0, 1, 0), (0, 0.1, 0.9)])
def test_shares_are_met(shares):
    complexity = np.random.default_rng(0).permutation(1000).astype(np.float32) / 1000
    plan = plan_by_shares(complexity, shares, prefixes(3))
    chosen = np.asarray(jax.jit(lambda c: assign(plan, c))(complexity))
    np.testing.assert_allclose(np.bincount(chosen, minlength=3) / 1000, shares)
    assert (np.diff(chosen[np.argsort(complexity)]) >= 0).all()


@pytest.mark.parametrize("budget", [1.0001, 1.5, 2.1])
def test_most_even_shares_meet_the_budget(budget):
    shares = shares_within(COSTS, budget)
    np.testing.assert_allclose([shares.sum(), shares @ COSTS], [1, budget])
    # log-linear in the costs: the condition of the greatest entropy
    log = np.log(shares)
    slopes = np.diff(log) / np.diff(COSTS)
    np.testing.assert_allclose(slopes[0], slopes[1])


def test_shares_are_even_where_the_budget_allows_it():
    np.testing.assert_allclose(shares_within(COSTS, 2.5), 1 / 3)


def test_the_control_costs_the_same(held_out):
    complexity, right = held_out
    chosen = assign(plan_by_shares(complexity, [0.4, 0.3, 0.3], prefixes(3)), complexity)
    random = shuffled(jax.random.key(0), chosen)
    assert (random != chosen).any()
    np.testing.assert_array_equal(np.bincount(random), np.bincount(chosen))
    assert outcome(random, right, COSTS).accuracy < outcome(chosen, right, COSTS).accuracy


def test_subsets_by_importance_are_nested():
    subsets = by_importance([0.2, 0.9, 0.2, 0.5])
    assert subsets == ((1,), (1, 3), (0, 1, 3), (0, 1, 2, 3))
    with pytest.raises(ValueError, match="importance is"):
        by_importance([0.1, np.nan])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"edges": (0.5, 0.5), "options": (0, 0, 0)}, "must ascend"),
        ({"options": (0,)}, "1 of them part 2 buckets, but options has 1"),
        ({"options": (0, 2)}, "must be from 0 to 1"),
        ({"layers": ((1, 0), (0,))}, r"layers \(1, 0\) must ascend"),
    ],
)
def test_what_is_no_plan_is_refused(changed, message):
    fields = {"edges": (0.5,), "options": (0, 1), "layers": prefixes(2)}
    with pytest.raises(ValueError, match=message):
        LayerPlan(**fields | changed)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda c, r: fit_plan(c, r[:, :2], prefixes(3), COSTS, 2), r"right \(200, 2\)"),
        (lambda c, r: fit_plan(c, r, prefixes(3), COSTS, 2, buckets=0), "buckets is 0"),
        (lambda c, r: fit_plan(c, r, prefixes(3), COSTS, 0.5), "below 1, the least possible"),
        (lambda c, r: fit_plan(c * np.nan, r, prefixes(3), COSTS, 2), "all finite"),
        (lambda c, r: plan_by_shares(c, [0.5, 0.2], prefixes(2)), "adding up to 1"),
        (lambda c, r: shares_within(COSTS, 1.0), "must be above 1, the least cost"),
        (lambda c, r: shares_within([1.0, np.inf], 1.0), "give a finite number"),
    ],
)
def test_bad_input(held_out, run, message):
    with pytest.raises(ValueError, match=message):
        run(*held_out)

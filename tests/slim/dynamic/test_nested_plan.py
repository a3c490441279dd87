"""Variants of one set of variables, and their plan as JSON."""

import json

import chex
import jax
import numpy as np
import pytest

from slim.dynamic import NestedPlan
from slim.dynamic.nested_plan import VARIANTS, without_own
from slim.graph import make_plan, shrink, trace
from slim.prune.depth import Block, DepthPlan

VARIABLES = {
    "params": {name: np.arange(12, dtype="f").reshape(shape) for name, shape in
               (("a", (3, 4)), ("b", (4, 3)), ("c", (3, 4)))},
    "batch_stats": {"mean": np.arange(4, dtype="f")},
}  # fmt: skip


def fn(v, x):
    p = v["params"]
    hidden = jax.numpy.tanh(x @ p["a"] - v["batch_stats"]["mean"])
    return hidden @ p["b"] @ p["c"]


@pytest.fixture(scope="module")
def plan():
    half = make_plan(trace(fn, VARIABLES, np.ones((2, 3), "f")), {"params/a:1": [0, 1]})
    shallow = DepthPlan((Block("params/c", ("params/c",)),))
    return NestedPlan({"whole": (), "half": (half,), "less": (half, shallow)})


def test_variants_are_slices_with_statistics_of_their_own(plan):
    variables = plan.with_own(VARIABLES)
    assert list(variables[VARIANTS]) == ["half", "less"]
    half = plan.variants["half"][0]
    chex.assert_trees_all_equal(plan.narrow("half", variables), shrink(half, VARIABLES))
    chex.assert_trees_all_equal(plan.narrow("whole", variables), VARIABLES)
    chex.assert_trees_all_equal(without_own(variables), VARIABLES)
    assert plan.narrow("less", variables)["params"].keys() == {"a", "b"}
    own = {"half": {"batch_stats": {"mean": np.ones(2)}}}
    given = plan.narrow("half", {**VARIABLES, VARIANTS: own})
    chex.assert_trees_all_equal(given["batch_stats"], own["half"]["batch_stats"])


def test_json_gives_the_plan_back(plan):
    again = NestedPlan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    for name in plan.variants:
        chex.assert_trees_all_equal(again.narrow(name, VARIABLES), plan.narrow(name, VARIABLES))


def test_one_variant_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        NestedPlan.from_json(json.dumps({"kind": "nested", "version": 1, "variants": {"a": []}}))


def test_an_unknown_variant_is_refused(plan):
    with pytest.raises(ValueError, match="variant: unknown name 'haf'; did you mean 'half'"):
        plan.narrow("haf", VARIABLES)

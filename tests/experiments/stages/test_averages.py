"""Averages of weights (`ema`) on the way through cuts: what is handed on is the averages, cut."""

import chex
import jax
import numpy as np
import pytest

from experiments import train_step
from slim import paths
from slim.graph import shrink

EMA = {"epochs": 0.5, "ema": 0.9, "lr": 0.05}


@pytest.fixture
def starts(monkeypatch):
    """The states that trainings start from."""
    states, start = [], train_step.start

    def started(*args, **kwargs):
        states.append(start(*args, **kwargs))
        return states[-1]

    monkeypatch.setattr(train_step, "start", started)
    return states


@pytest.fixture
def ends(monkeypatch):
    """The states that trainings end in."""
    states, result = [], train_step.result
    monkeypatch.setattr(train_step, "result", lambda state: states.append(state) or result(state))
    return states


@pytest.mark.slow
def test_a_cut_model_is_the_averages_cut_and_trains_on_from_them(stages, starts, ends):
    made = stages({"name": "resnet8", "width": 4})
    trained = made.run("train", **EMA)
    chex.assert_trees_all_equal(trained.variables, ends[-1].average)
    apart = jax.tree.map(
        lambda a, b: float(abs(a - b).max()), trained.variables["params"], ends[-1].params
    )
    assert min(jax.tree.leaves(apart)) > 0

    small = made.run("shrink", trained, keep_ratio=0.5, batches=1)
    (plan,) = small.plans
    chex.assert_trees_all_equal(small.variables, shrink(plan, trained.variables))

    tuned = made.run("finetune", small, **EMA)
    start = starts[1]
    # A new optimizer, whose moments are 0, and averages that start at the weights.
    moments = paths.flatten(start.opt_state)
    seen = [np.asarray(leaf).any() for path, leaf in moments.items() if "/trace/" in path]
    assert seen
    assert not any(seen)
    chex.assert_trees_all_equal(start.average, small.variables)
    chex.assert_trees_all_equal(tuned.variables, ends[-1].average)
    chex.assert_trees_all_equal_shapes(tuned.variables, small.variables)


def test_averages_of_masked_weights_are_masked(stages, ends):
    made = stages()
    pruned = made.run("prune", **EMA, keep_ratio=0.3)
    small = made.run("shrink", pruned, keep_ratio=0.6, score="l1")
    tuned = made.run("finetune", small, **EMA)
    chex.assert_trees_all_equal(tuned.variables, ends[-1].average)
    for variables, masks in ((pruned.variables, pruned.masks), (tuned.variables, tuned.masks)):
        for path, mask in paths.flatten(masks).items():
            leaf = np.asarray(paths.flatten(variables["params"])[path])
            assert not leaf[~np.asarray(mask)].any(), path
            assert leaf.any()

"""Channels and hidden units are cut by any score, to any budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.schema import ConfigError
from experiments.stages import latency
from slim import graph
from slim.prune import SCORES, LatencyTable

HIDDEN = ("params/hidden1/kernel:1", "params/hidden2/kernel:1")
RESNET = {"name": "resnet8", "width": 4}
# What a unit that does nothing is worth to them is not 0.
BLIND = {"random", "fpgm", "norm_scale"}


def with_dead_units(variables, dead):
    """Units of the first hidden layer without a weight."""
    params = variables["params"]
    first, second = params["hidden1"], params["hidden2"]
    return {
        "params": {
            **params,
            "hidden1": {name: leaf.at[..., dead].set(0) for name, leaf in first.items()},
            "hidden2": {**second, "kernel": second["kernel"].at[dead].set(0)},
        }
    }


@pytest.mark.parametrize("score", [name for name in SCORES if name not in BLIND])
def test_every_score_cuts_units_that_do_nothing(stages, score):
    made = stages()
    dead = np.array([1, 6, 7])
    model = made.model._replace(variables=with_dead_units(made.model.variables, dead))
    rules = [{"pattern": HIDDEN[0], "keep": 13 / 16}]
    small = made.run("shrink", model, score=score, keep_ratio=0.9, rules=rules, batches=2)
    assert small.plans[0].keep[HIDDEN[0]] == tuple(np.delete(np.arange(16), dead).tolist())


@pytest.mark.parametrize("score", ["norm_scale", "apoz"])
def test_scores_of_scales_and_activations_rate_channels(stages, score):
    made = stages(RESNET)
    small = made.run("shrink", score=score, keep_ratio=0.6, batches=1)
    assert (
        graph.cost(made.network.shrunk(small.plans).graph()).macs
        <= 0.6 * graph.cost(made.network.graph()).macs
    )


def test_a_score_that_cannot_rate_a_group_says_why_and_a_rule_leaves_the_group_alone(stages):
    made = stages()
    with pytest.raises(
        ConfigError,
        match=r"shrink\.score = 'norm_scale': .* finds nothing to rate in group "
        r"'params/hidden\d/kernel:1' .*; leave the group out",
    ):
        made.run("shrink", score="norm_scale")
    constant = made.model.variables["params"]
    constant = {
        "params": {**constant, "hidden1": jax.tree.map(jnp.zeros_like, constant["hidden1"])}
    }
    model = made.model._replace(variables=constant)
    with pytest.raises(ConfigError, match=r"'apoz': .*needs zero_fractions, which differ"):
        made.run("shrink", model, score="apoz", batches=1)
    alone = [{"pattern": "*hidden1*", "keep": 1.0}]
    with pytest.raises(ConfigError, match=r"'apoz': .*params/hidden2/kernel:1"):
        made.run("shrink", model, score="apoz", batches=1, rules=alone)
    small = made.run("shrink", score="apoz", batches=1, rules=alone, keep_ratio=0.9)
    assert small.plans[0].keep.keys() == {HIDDEN[1]}


def test_scores_that_are_not_finite_are_refused(stages):
    made = stages()
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, made.model.variables)
    with pytest.raises(
        ConfigError, match=r"^shrink\.score = 'l2': score 'l2' of group 'params/\S+' is NaN at .*$"
    ):
        made.run("shrink", made.model._replace(variables=broken), score="l2")


def test_equal_cuts_make_one_network(stages):
    made = stages()
    (plan,) = made.run("shrink", score="l1", keep_ratio=0.8).plans
    small = made.network.shrunk([plan])
    assert made.network.shrunk([graph.Plan.from_json(plan.to_json())]) is small
    assert small.before is made.network
    (again,) = made.run("shrink", score="l1", keep_ratio=0.7).plans
    assert made.network.shrunk([again]) is not small


def macs(network, plan):
    return graph.cost(network.shrunk([plan]).graph()).macs


def test_a_latency_that_does_not_add_up_is_met_all_the_same(stages, monkeypatch, caplog):
    """MACs for seconds: of a product of two cut axes, which a table takes to be cut twice."""
    made = stages({"name": "mlp", "hidden": (32, 32, 32)})
    timed = []

    def clock(network, variables, batch, rounds):
        return lambda plan: timed.append(plan) or 1e-6 * macs(network, plan)

    monkeypatch.setattr(latency, "_clock", clock)
    caplog.set_level("INFO", "slim")
    small = made.run("shrink", budget="latency", keep_ratio=0.4, score="l1", round_to=4)
    table = LatencyTable.from_json((made.directory / latency.FILE).read_text())
    whole = graph.cost(made.network.graph()).macs
    assert table.baseline == pytest.approx(1e-6 * whole)
    for row in table.seconds.values():
        assert set(row) == {8, 16, 24, 32}
    assert 0.2 * whole < macs(made.network, small.plans[0]) <= 0.4 * latency.NOISE * whole
    # Without a second look the first choice would have been too slow.
    first = timed[1 + 3 * len(table.seconds)]
    assert macs(made.network, first) > 0.4 * latency.NOISE * whole
    assert "shrink: " in caplog.text
    assert "the table foretold" in caplog.text


def test_a_latency_is_measured_on_this_device(stages):
    made = stages({"name": "mlp", "hidden": (16,)})
    small = made.run(
        "shrink",
        budget="latency",
        keep_ratio=1.0,
        score="l1",
        latency_batch=4,
        latency_keeps=(0.5,),
        latency_rounds=2,
    )
    table = LatencyTable.from_json((made.directory / latency.FILE).read_text())
    assert list(table.seconds["params/hidden1/kernel:1"]) == [8, 16]
    assert all(seconds > 0 for seconds in table.seconds["params/hidden1/kernel:1"].values())
    # All of the score fits into all of the time.
    assert small.plans[0].keep == {}


def test_a_latency_out_of_reach_is_refused(stages, monkeypatch):
    monkeypatch.setattr(latency, "_clock", lambda *args: lambda plan: 1.0)
    with pytest.raises(
        ConfigError,
        match=r"^shrink\.keep_ratio = 0\.5 of the latency: target 0\.5 s is out of reach: .*$",
    ):
        stages().run("shrink", budget="latency", keep_ratio=0.5, score="l1")

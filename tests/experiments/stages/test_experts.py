"""Fewer experts: pruned or merged, a decoder goes on as any other."""

import json

import chex
import jax
import numpy as np
import pytest

from experiments import cuts, mesh, recipe, runner
from experiments.data import sets
from experiments.language import active_parameters
from experiments.preemption import Preemption
from experiments.schema import ConfigError
from experiments.workdir import Finished
from slim.models.deepseek import empty_cache
from slim.models.deepseek.compress import ExpertPlan
from tests.experiments import jobs

IDS = jobs.language().batch_at(0, 0)["input"]


@pytest.fixture
def made(stages):
    return stages(jobs.DECODER, dataset=jobs.language())


def with_bias(model, bias):
    """A model whose router is led by biases alone."""
    return model._replace(
        variables={**model.variables, "router": {"sparse": {"mlp": {"bias": np.float32([bias])}}}}
    )


def test_the_most_used_are_left_and_nothing_changes_where_others_were_never_used(made):
    led = with_bias(made.model, [9, 0, 0, 9])
    small = made.run("experts", led, keep=2, batches=1)
    assert small.plans == (ExpertPlan(False, {"sparse/mlp": (((0,), (3,)),)}),)
    net = made.network.shrunk(small.plans)
    chex.assert_trees_all_equal_shapes_and_dtypes(net.abstract(), small.variables)
    logits, loads = jax.jit(net.observe)(small.variables, IDS)
    np.testing.assert_allclose(logits, made.network.predict(led.variables, IDS), atol=1e-6)
    np.testing.assert_array_equal(loads.load, [[IDS.size] * 2])
    cache = empty_cache(net.language.config, *IDS.shape)
    np.testing.assert_allclose(net.decode(small.variables, IDS, cache, 0)[0], logits, atol=1e-5)
    assert made.network.shrunk(map(cuts.from_json, [small.plans[0].to_json()])) is net
    params = small.variables["params"]
    assert active_parameters(params, 2) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_all_are_led_to_those_that_are_left(made):
    led = with_bias(made.model, [9, 0, 0, 9])
    small = made.run("experts", led, method="merge", keep=2, batches=1)
    (plan,) = small.plans
    assert [part[0] for part in plan.parts["sparse/mlp"][0]] != [1, 2]
    net = made.network.shrunk(small.plans)
    chex.assert_trees_all_equal_shapes_and_dtypes(net.abstract(), small.variables)
    assert small.variables["params"]["sparse"]["mlp"]["experts"]["gate"].shape == (1, 2, 16, 8)
    # None of the two that are used got a share of those that are not.
    logits, loads = jax.jit(net.observe)(small.variables, IDS)
    np.testing.assert_allclose(logits, made.network.predict(led.variables, IDS), atol=1e-5)
    np.testing.assert_array_equal(loads.load, [[IDS.size, 0, 0, IDS.size]])


def test_what_cannot_be_cut_is_refused(made, stages):
    with pytest.raises(ConfigError, match=r"experts\.keep = 5: keep is 5; allowed: 1 to the 4"):
        made.run("experts", keep=5, batches=1)
    with pytest.raises(ConfigError, match=r"experts\.keep = 1: k is 2; allowed: at most the 1"):
        made.run("experts", keep=1, batches=1)
    dense = stages({**jobs.DECODER, "name": "deepseek_dense"}, dataset=jobs.language())
    with pytest.raises(ConfigError, match="experts: the model has no experts"):
        dense.run("experts", keep=2)
    parts = {"sparse/mlp": (((0, 1), (2, 3)),)}
    merged = made.model._replace(plans=(ExpertPlan(True, parts),))
    with pytest.raises(ConfigError, match="experts were merged before"):
        made.run("experts", merged, keep=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prune", "merge"])
def test_a_recipe_cuts_trains_on_and_is_read_back(tmp_path, method):
    fields = {
        "name": "test",
        "data": {
            "name": "random_tokens",
            "length": 8,
            "vocabulary": 300,
            "batch_size": 8,
            "eval_batch_size": 8,
            "train_split": "train[:32]",
            "eval_split": "validation[:16]",
        },
        "model": {**jobs.DECODER, "width": 32},
        "mesh": {"fsdp": 2},
        "stages": ("train", "experts", "finetune", "evaluate"),
        "train": {"epochs": 0.5},
        "experts": {"method": method, "keep": 2, "batches": 1},
        "finetune": {"epochs": 0.5, "ema": 0.5},
        "evaluate": {"batch_size": 8, "latency_rounds": 1},
    }
    resolved = recipe.resolve(fields, jax.device_count())
    found = runner.run(resolved, tmp_path, Preemption(), command="test", pages=tmp_path)
    rows = found.models
    assert rows["train"].parameters > rows["experts"].parameters == rows["finetune"].parameters
    assert rows["finetune"].dropped_share == 0
    (directory,) = (tmp_path / "stages").glob("finetune-*")
    assert json.loads(json.loads((directory / "result.json").read_text())["plans"][0])[
        "merged"
    ] == (method == "merge")
    context = runner.shared_context(resolved, sets.load(resolved.settings.data), Preemption())
    model = Finished(directory).model(context.network, mesh.replicated(context.mesh))
    small = context.network.shrunk(model.plans)
    chex.assert_trees_all_equal_shapes_and_dtypes(small.abstract(), model.variables)

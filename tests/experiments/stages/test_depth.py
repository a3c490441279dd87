"""Residual blocks are left out, the least missed first; what is left is a model like any other."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mesh as meshes
from experiments import network, recipe, runner
from experiments.data import sets
from experiments.preemption import Preemption
from experiments.schema import ConfigError
from experiments.stages import depth
from experiments.workdir import Finished
from slim import graph, paths
from slim.models.vit import ViT
from slim.prune import DepthPlan, residual_blocks
from tests.experiments import jobs

VIT = ViT(width=8, depth=2, heads=2, num_classes=jobs.LABELS, patch_size=4)
RESNET = {"name": "resnet8", "width": 4}
IMAGES = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1))
LAST = {"attention": "out", "mlp": "mlp2"}


def as_identity(variables, layer, branch):
    """The variables with a branch of the ViT that adds exactly nothing."""
    params = jax.tree.map(lambda leaf: leaf, variables["params"])
    inner = params[layer]["attention"] if branch == "attention" else params[layer]
    inner[LAST[branch]] = jax.tree.map(jnp.zeros_like, inner[LAST[branch]])
    return {**variables, "params": params}


@pytest.fixture
def vit(stages):
    return stages(module=VIT)


def test_the_least_missed_block_goes_first_and_the_rest_stays_exactly_as_it_was(vit):
    harmless = vit.model._replace(variables=as_identity(vit.model.variables, "block2", "mlp"))
    small = vit.run("depth", harmless, keep_ratio=0.75)
    ((block,),) = (plan.blocks for plan in small.plans)
    assert block.name == "params/block2/mlp1/kernel"
    chex.assert_trees_all_equal(
        vit.network.shrunk(small.plans).predict(small.variables, IMAGES),
        vit.network.predict(harmless.variables, IMAGES),
    )
    assert set(small.variables["params"]["block2"]) == {"norm1", "attention"}


def test_any_choice_equals_the_network_whose_branches_are_the_identity(vit):
    small = vit.run("depth", keep_ratio=0.5)
    (plan,) = small.plans
    assert len(plan.blocks) == 2
    masked = vit.model.variables
    for block in plan.blocks:
        _, layer, first, *_ = block.name.split("/")
        masked = as_identity(masked, layer, "attention" if first == "attention" else "mlp")
    found = vit.network.shrunk(small.plans).predict(small.variables, IMAGES)
    chex.assert_trees_all_equal(found, vit.network.predict(masked, IMAGES))
    kept = paths.flatten(vit.model.variables)
    for path, leaf in paths.flatten(small.variables).items():
        np.testing.assert_array_equal(leaf, kept[path])


@pytest.mark.parametrize("budget", depth.BUDGETS)
def test_a_budget_is_met_by_no_more_blocks_than_it_takes(vit, budget):
    cost = depth.BUDGETS[budget]
    small = vit.run("depth", keep_ratio=0.7, budget=budget, batches=1)
    limit = 0.7 * cost(vit.network)
    assert cost(vit.network.shrunk(small.plans)) <= limit
    (plan,) = small.plans
    one_less = vit.network.shrunk([DepthPlan(plan.blocks[:-1])])
    assert cost(one_less) > limit


def test_masks_follow(vit):
    masked = vit.model._replace(
        masks=jax.tree.map(lambda leaf: leaf > 0, vit.model.variables["params"])
    )
    small = vit.run("depth", masked, batches=1)
    chex.assert_trees_all_equal(
        small.masks, jax.tree.map(lambda leaf: leaf > 0, small.variables["params"])
    )


def test_a_model_without_blocks_is_refused(stages):
    with pytest.raises(ConfigError, match=r"depth: the model has no residual block"):
        stages().run("depth")


def test_a_budget_out_of_reach_is_refused(vit):
    with pytest.raises(
        ConfigError, match=r"depth\.keep_ratio = 0\.01: .* macs are out of reach: .* 4 residual"
    ):
        vit.run("depth", keep_ratio=0.01, budget="macs", batches=1)


def test_weights_that_are_not_finite_are_refused(vit):
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, vit.model.variables)
    with pytest.raises(ConfigError, match="depth: the loss is NaN"):
        vit.run("depth", vit.model._replace(variables=broken), batches=1)


FIELDS = {
    "name": "test",
    "data": {"name": "digits", "train_split": "train[:20%]", "eval_split": "test[:20%]"}
    | {"batch_size": 64, "eval_batch_size": 64},
    "model": RESNET,
    "stages": ("train", "narrow", "depth", "again", "finetune", "evaluate"),
    "train": {"epochs": 0.5},
    "narrow": {"kind": "shrink", "keep_ratio": 0.8, "score": "l1"},
    "depth": {"keep_ratio": 0.5, "batches": 1},
    "again": {"kind": "shrink", "keep_ratio": 0.8, "score": "l1"},
    "finetune": {"epochs": 0.5, "ema": 0.5},
    "evaluate": {
        "batch_size": 64,
        "latency_rounds": 1,
        "robustness_images": 8,
        "attacks": (),
        "corruptions": (),
    },
}


@pytest.mark.slow
def test_a_recipe_cuts_depth_between_widths_and_trains_on_and_is_read_back(tmp_path):
    made = recipe.resolve(FIELDS, jax.device_count())
    found = runner.run(made, tmp_path, Preemption(), command="test", pages=tmp_path)
    rows = found.models
    order = ("train", "narrow", "depth", "again")
    for before, after in itertools.pairwise(order):
        assert rows[after].macs < rows[before].macs
        assert rows[after].parameters < rows[before].parameters
    assert rows["finetune"].macs == rows["again"].macs
    assert rows["finetune"].nonzero_parameters == rows["again"].nonzero_parameters
    assert rows["finetune"].loss != rows["again"].loss

    (directory,) = (tmp_path / "stages").glob("finetune-*")
    context = runner.shared_context(made, sets.load(made.settings.data), Preemption())
    model = Finished(directory).model(context.network, meshes.replicated(context.mesh))
    assert [type(plan) for plan in model.plans] == [graph.Plan, DepthPlan, graph.Plan]
    assert network.count(model.variables["params"]) == rows["finetune"].parameters
    small = context.network.shrunk(model.plans)
    assert graph.cost(small.graph()).macs == rows["finetune"].macs


def test_a_shallow_network_has_a_graph_and_shapes_of_its_own(stages):
    made = stages(RESNET)
    small = made.run("depth", keep_ratio=0.5, batches=1)
    shallow = made.network.shrunk(small.plans)
    chex.assert_trees_all_equal_shapes_and_dtypes(shallow.abstract(), small.variables)
    assert residual_blocks(shallow.graph()) == ()
    members = [each.path for group in graph.groups(shallow.graph()) for each in group.members]
    assert members
    assert not any("stage1_block1" in path for path in members)
    batch = jobs.stripes().batch_at(0, 0)["input"] / 255
    _, changed = shallow.train(small.variables, jnp.float32(batch), jax.random.key(0))
    chex.assert_trees_all_equal_structs(changed, {"batch_stats": small.variables["batch_stats"]})

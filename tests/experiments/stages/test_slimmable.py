"""The stage `slimmable`: several widths and depths in one set of weights, trained at once."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import mesh as meshes
from experiments.network import prepare
from experiments.preemption import Preempted, Preemption
from experiments.schema import ConfigError
from experiments.stages import Result, evidence, slimmable
from experiments.stages.slimmable import SlimmableConfig
from experiments.train import RunConfig
from experiments.train_step import supervised
from experiments.workdir import Finished
from slim.dynamic.nested_plan import VARIANTS
from slim.quant import reestimate
from tests.experiments import jobs
from tests.experiments.stages.conftest import Stages

RESNET = {"name": "resnet8", "width": 4}
MLP = {"name": "mlp", "hidden": (16, 12)}
KEY = jax.random.key(0)
IMAGES = prepare(jobs.stripes().eval.inputs)
LABELS = jobs.stripes().eval.labels
BATCHES = [{"input": IMAGES[:8]}, {"input": IMAGES[8:16]}]
TRAINED = {"epochs": 8.0, "lr": 0.05, "batches": 1, "keep_ratios": (1.0, 0.6, 0.4)}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """The stages of a network; and of it, hardly trained, three variants."""
    made = Stages(tmp_path_factory.mktemp("resnet"), RESNET, None, jobs.stripes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evidence,
            "training_batches",
            lambda context, count: ({**each, "label": LABELS[:8]} for each in BATCHES[:count]),
        )
        left = made.run(
            "slimmable",
            keep_ratios=(1.0, 1.0, 0.5),
            drops=(0, 1, 1),
            middle=0,
            score="l1",
            epochs=0.1,
            lr=1e-9,
            batches=1,
            statistics=2,
        )
    return made, left, made.network.shrunk(left.plans)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """The stages of a network, and the model of three widths."""
    made = Stages(tmp_path_factory.mktemp("mlp"), MLP, None, jobs.stripes())
    left = made.run("slimmable", **TRAINED)
    return made, left, made.network.shrunk(left.plans)


def test_each_variant_is_what_shrink_and_depth_make_of_the_model(resnet):
    """In training mode, which reads no batch statistics."""
    made, left, network = resnet
    plan = network.nested_plan
    assert list(plan.variants) == ["keep_1_drop_0", "keep_1_drop_1", "keep_0.5_drop_1"]
    (block,) = plan.variants["keep_1_drop_1"][0].blocks
    half = made.run("shrink", keep_ratio=0.5, score="l1", distribution="uniform")
    remove = {"remove": (block.name,)}
    others = (made.model, made.run("depth", **remove), made.run("depth", half, **remove))
    for (name, small), other in zip(network.variants.items(), others, strict=True):
        expected, _ = jax.jit(made.network.shrunk(other.plans).train)(other.variables, IMAGES, KEY)
        narrow = plan.narrow(name, left.variables)
        given, _ = jax.jit(small.train)(narrow, IMAGES, KEY)
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)
        chex.assert_trees_all_equal_shapes(narrow, other.variables)


def test_each_variant_has_batch_statistics_of_its_own(resnet):
    _, left, network = resnet
    assert list(left.variables[VARIANTS]) == ["keep_1_drop_1", "keep_0.5_drop_1"]
    for name, small in network.variants.items():
        narrow = network.nested_plan.narrow(name, left.variables)
        found = reestimate(
            lambda v, x, run=small.train: run(v, x, KEY), narrow, [(b["input"],) for b in BATCHES]
        )
        chex.assert_trees_all_close(narrow, found, rtol=1e-5)


def test_it_is_stored_and_read_as_other_models_are(resnet, tmp_path):
    made, left, _ = resnet
    finished = Finished(tmp_path / "stage")
    finished.write(Result(left), 1.0)
    context = made.context("slimmable", {})
    read = finished.model(context.network, meshes.replicated(context.mesh))
    chex.assert_trees_all_equal(read.variables, left.variables)
    assert [plan.to_json() for plan in read.plans] == [plan.to_json() for plan in left.plans]


def test_all_variants_learn(mlp):
    _, left, network = mlp
    assert list(network.variants) == ["keep_1", "keep_0.6", "keep_0.4"]
    right, whole = {}, jax.jit(network.predict)(left.variables, IMAGES)
    for name, small in network.variants.items():
        narrow = network.nested_plan.narrow(name, left.variables)
        logits = np.asarray(jax.jit(small.predict)(narrow, IMAGES))
        right[name] = (logits.argmax(1) == LABELS).mean()
        assert np.allclose(logits, whole, atol=1e-4) == (name == "keep_1")
    assert min(right.values()) > 0.8, right


def test_the_widest_learns_from_the_labels_alone(mlp):
    """Weights that no other variant has get the gradient of the cross-entropy."""
    made, left, network = mlp
    rows = {"input": IMAGES, "label": LABELS}
    joint = slimmable._objective(SlimmableConfig(), made.network, network.nested_plan)

    def gradient(objective):
        def total(params):
            return objective({"params": params}, rows, KEY, 0, ()).total

        return jax.jit(jax.grad(total))(left.variables["params"])["hidden1"]["kernel"]

    both, alone = gradient(joint), gradient(supervised(made.network, 0.0))
    kept = len(network.nested_plan.variants["keep_0.6"][0].keep["params/hidden1/kernel:1"])
    assert 0 < kept < 16
    np.testing.assert_allclose(both[:, kept:], alone[:, kept:], rtol=1e-4, atol=1e-6)
    assert abs(both[:, :kept] - alone[:, :kept]).max() > 1e-3


def test_a_stopped_stage_goes_on(mlp, keep_compiled):
    made, left, _ = mlp
    context = dataclasses.replace(
        made.context("slimmable", TRAINED),
        preemption=jobs.StopAt(4),
        run=RunConfig(checkpoint_epochs=9.0, histogram_epochs=0.0),
    )
    with pytest.raises(Preempted):
        slimmable.run(context, SlimmableConfig(**TRAINED), made.model)
    context = dataclasses.replace(context, preemption=Preemption())
    again = slimmable.run(context, SlimmableConfig(**TRAINED), made.model).model
    chex.assert_trees_all_equal(again.variables, left.variables)


def test_what_was_pruned_stays_pruned_wherever_it_is_sorted_to(mlp):
    made, *_ = mlp
    params = made.model.variables["params"]
    masks = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape) % 3 > 0, params)
    pruned = jax.tree.map(lambda leaf, mask: jnp.where(mask, leaf, 0), params, masks)
    model = made.model._replace(variables={"params": pruned}, masks=masks)
    left = made.run("slimmable", model, epochs=0.3, score="l1", keep_ratios=(1.0, 0.5), middle=0)
    assert (left.masks["hidden1"]["kernel"] != masks["hidden1"]["kernel"]).any()
    for leaf, mask in zip(*map(jax.tree.leaves, (left.variables, left.masks)), strict=True):
        np.testing.assert_array_equal(leaf[~mask], 0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"keep_ratios": (0.5, 0.25)}, r"\(0.5, 0.25\): must begin with 1 and descend"),
        ({"keep_ratios": (1.0, 0.25, 0.5)}, "must begin with 1 and descend"),
        ({"keep_ratios": (1.0, 0.5, 0.5)}, "two variants are the same"),
        ({"drops": (0, 2)}, r"drops = \(0, 2\): give one for each of keep_ratios"),
        ({"middle": 2}, "middle = 2: 3 variants have 1 between"),
        ({"score": "l3"}, "unknown name 'l3'; did you mean"),
        ({"drops": (0, 0, 1)}, "the model has 0 residual blocks"),
        ({"keep_ratios": (1.0, 0.5, 0.001)}, "0.001 of the macs: target .* is out of reach"),
    ],
)
def test_what_cannot_be_is_refused(mlp, section, message):
    made, *_ = mlp
    with pytest.raises(ConfigError, match=message):
        made.run("slimmable", **{"score": "l1", **section})

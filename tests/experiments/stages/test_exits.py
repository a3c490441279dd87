"""The stage `exits`: classifiers inside a network, trained with it or on it."""

import chex
import jax
import numpy as np
import pytest

from experiments.network import prepare
from experiments.schema import ConfigError
from slim import models, paths
from slim.dynamic.exit_plan import without_exits
from tests.experiments import jobs

RESNET = {"name": "resnet8", "width": 4}
INSIDE = {"taps": ("*stage[23]_block1/conv1/kernel:data",), "skip": 0}


@pytest.fixture
def images():
    return prepare(jobs.stripes().eval.inputs)


@pytest.fixture
def made(stages, monkeypatch):
    monkeypatch.setitem(
        models.bert.CONFIGS,
        "tiny",
        models.bert.BertConfig(16, 3, 4, 24, vocabulary=20, positions=8),
    )
    return stages({"name": "bert", "size": "tiny"}, dataset=jobs.words())


TEXT = {"taps": ("*/attention/*:block",), "pooling": "first", "pooler": True, "lr": 1e-3}


def test_exits_learn_and_the_last_is_the_network_itself(stages, images):
    made = stages(RESNET)
    left = made.run("exits", epochs=4.0, lr=0.05, **INSIDE)
    network = made.network.shrunk(left.plans)
    logits = network.exits(left.variables, images)
    assert len(logits) == len(network.exit_plan.boundaries) + 1 == 3
    chex.assert_trees_all_close(logits[-1], network.predict(left.variables, images), atol=1e-5)
    labels = jobs.stripes().eval.labels
    assert (np.asarray(logits[-1]).argmax(1) == labels).mean() > 0.8


def test_exits_on_a_frozen_network_leave_it_as_it_was(stages, images):
    made = stages(RESNET)
    left = made.run("exits", epochs=1.0, frozen=True, weight_decay=0.1, **INSIDE)
    chex.assert_trees_all_equal(without_exits(left.variables), made.model.variables)


def test_text_exits_with_a_teacher_and_layer_dropout(made):
    teach = {"teacher": "train", "mixture": 0.5}
    left = made.run("exits", epochs=1.0, layer_dropout=0.2, distillation=teach, **TEXT)
    assert len(made.network.shrunk(left.plans).exit_plan.boundaries) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(left.variables))


def test_a_sampled_path_moves_only_what_is_on_it(made):
    one = made.run("exits", epochs=0.1, paths="sampled", weight_decay=0.1, **TEXT)
    before, after = (paths.flatten(m.variables["params"]) for m in (made.model, one))
    depth = {p for p in before if (before[p] != after[p]).any()}
    layers = {int(p.split("/")[0].removeprefix("layer_")) for p in depth if p.startswith("layer")}
    taken = max(layers) + 1
    assert layers == set(range(taken))
    assert any(p.startswith("classifier") for p in depth) == (taken == 3)


def test_what_cannot_be_is_refused(stages, made):
    with pytest.raises(ConfigError, match="nearest"):
        made.run("exits", taps=("*/layer:block",))
    with pytest.raises(ConfigError, match=r"skip = 9: leaves none"):
        made.run("exits", skip=9)
    with pytest.raises(ConfigError, match=r"batch_stats.*paths = 'all'"):
        stages(RESNET).run("exits", paths="sampled", **INSIDE)
    terms = ({"loss": "l2", "taps": ("*:end",)},)
    with pytest.raises(ConfigError, match="leave taps out"):
        made.run("exits", distillation={"teacher": "train", "terms": terms})
    with pytest.raises(ConfigError, match="layer_dropout"):
        made.run("exits", frozen=True, layer_dropout=0.1)

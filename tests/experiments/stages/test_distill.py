"""The stage `distill`: a student that learns from a teacher, wherever its values come from."""

import chex
import jax
import numpy as np
import pytest

from experiments.network import prepare
from experiments.schema import ConfigError
from experiments.stages.distillation.config import Distillation, TermConfig
from experiments.train_step import cross_entropy
from slim import models, paths
from slim.distill import LOSSES
from tests.experiments import jobs

FEW = {"epochs": 0.5, "lr": 1e-3}
HIDDEN = {"loss": "l2", "taps": ("*:block", "*:end")}


def logits(made, model, images):
    return made.network.shrunk(model.plans).predict(model.variables, images)


@pytest.fixture
def images():
    return prepare(jobs.stripes().eval.inputs)


def other(made, seed):
    variables = jax.jit(made.network.init)(jax.random.key(seed))
    return made.model._replace(variables=variables)


def test_a_student_comes_to_say_what_its_teacher_says(stages, images):
    made = stages()
    student = other(made, 1)
    taught = made.run("distill", student, teacher="train", epochs=8.0, lr=0.02, mixture=1.0)
    goal = logits(made, made.model, images)
    apart = [
        float(LOSSES["soft_targets"].value(logits(made, m, images), goal))
        for m in (student, taught)
    ]
    assert apart[1] < 0.3 * apart[0]


def test_an_equal_student_has_nothing_to_learn(stages):
    made = stages()
    same = made.run("distill", teacher="train", mixture=1.0, weight_decay=0.0, **FEW)
    chex.assert_trees_all_close(same.variables, made.model.variables, atol=2e-4)


def test_kept_values_teach_as_those_of_every_step(stages):
    made = stages({"name": "resnet8", "width": 4})
    student = other(made, 1)
    terms = ({"loss": "soft_targets"}, {"loss": "attention_transfer", "taps": ("*:block",)})
    kept, live = (
        made.run("distill", student, teacher="train", terms=terms, cache_mib=mib, **FEW)
        for mib in (64, 0)
    )
    chex.assert_trees_all_close(kept.variables, live.variables, atol=1e-3, rtol=1e-2)


def test_a_damaged_cache_is_made_anew(stages, caplog):
    made = stages()
    student = other(made, 1)
    first = made.run("distill", student, teacher="train", **FEW)
    (file,) = made.directory.parent.parent.glob("cache/*/0.npy")
    file.write_bytes(file.read_bytes()[:-4])
    second = made.run("distill", student, teacher="train", **FEW)
    assert "made anew" in caplog.text
    chex.assert_trees_all_equal(first.variables, second.variables)


def test_projections_are_trained_and_thrown_away(stages):
    made = stages({"name": "resnet8", "width": 4})
    narrow = made.run("shrink", keep_ratio=0.5, budget="macs")
    term = {"loss": "l2", "taps": ("*:end",), "project": True}
    taught = made.run("distill", narrow, teacher="train", terms=(term,), **FEW)
    before = paths.flatten(narrow.variables)
    after = paths.flatten(taught.variables)
    assert {p: v.shape for p, v in after.items()} == {p: v.shape for p, v in before.items()}
    with pytest.raises(ConfigError, match=r"terms\[0\].*width.*set project = True"):
        made.run("distill", narrow, teacher="train", terms=({**term, "project": False},), **FEW)


def test_what_was_pruned_stays_so(stages):
    made = stages()
    pruned = made.run("prune", keep_ratio=0.5, epochs=1.0)
    taught = made.run("distill", pruned, teacher="train", **FEW)
    for path, mask in paths.flatten(pruned.masks).items():
        kernel = np.asarray(paths.flatten(taught.variables["params"])[path])
        assert not kernel[~np.asarray(mask)].any()
        assert mask.all() or kernel[np.asarray(mask)].any()


def test_every_loss_of_a_text_model(stages, monkeypatch):
    monkeypatch.setitem(models.bert.CONFIGS, "tiny", jobs.BERT)
    made = stages({"name": "bert", "size": "tiny"}, dataset=jobs.words())
    terms = (
        {"loss": "soft_targets_top_k", "k": 2},
        {"loss": "decoupled", "settings": {"beta": 2.0}},
        HIDDEN,
        {"loss": "attention_mse", "taps": ("*/attention:scores",)},
        {"loss": "attention_kl", "taps": ("*/attention",), "layers": "learned"},
    )
    student = other(made, 1)
    taught = made.run("distill", student, teacher="train", terms=terms, **FEW)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(taught.variables))
    chex.assert_trees_all_equal_structs(taught.variables, student.variables)


def test_quantization_aware_training_has_a_teacher(stages, images):
    made = stages()
    section = {"weights": "int4", "edges": "same", "batches": 2, "epochs": 1.0}
    taught = made.run("quantize", distillation={"teacher": "train", "mixture": 1.0}, **section)
    untaught = made.run("quantize", **section)
    assert taught.quantized
    floats = logits(made, made.model, images)
    apart = [float(np.abs(logits(made, m, images) - floats).mean()) for m in (taught, untaught)]
    assert apart[0] < apart[1]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "distill.teacher: required: an earlier stage .train."),
        ({"teacher": "trian"}, "did you mean 'train'"),
        ({"teacher": "runs/no.safetensors"}, "no such file"),
        ({"teacher": "train", "terms": ({"loss": "l2"},)}, "needs taps"),
        ({"teacher": "train", "terms": ({"loss": "l2", "taps": ("kernels",)},)}, "nearest"),
        (
            {"teacher": "train", "terms": ({"loss": "soft_targets", "settings": {"beta": 1.0}},)},
            "has no 'beta'",
        ),
    ],
)
def test_what_cannot_be_taught_is_refused(stages, section, message):
    with pytest.raises(ConfigError, match=message):
        stages().run("distill", **section)


def test_schedules_start_and_end_as_they_say():
    config = Distillation(temperature=8.0, temperature_end=1.0, mixture=1.0, mixture_end=0.5)
    temperature, mixture = config.temperatures(10), config.mixtures(10)
    assert [float(temperature.value(s)) for s in (0, 10)] == [8.0, 1.0]
    assert [float(mixture.value(s)) for s in (0, 10)] == [1.0, 0.5]
    assert TermConfig(loss="soft_targets").layers == "uniform"


def test_cross_entropy_is_in_nats():
    even = cross_entropy(np.zeros((3, 4), np.float32), np.array([0, 1, 2]), 0.0)
    np.testing.assert_allclose(even, np.log(4), rtol=1e-6)

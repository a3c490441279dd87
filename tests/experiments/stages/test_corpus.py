"""The stage `distill` on other examples than the recipe's: keys, checks, and what is learnt."""

import jax
import numpy as np
import pytest

from experiments import dry_run, recipe
from experiments.data import sets
from experiments.data.config import DataConfig
from experiments.logs import METRICS, jsonl
from experiments.network import prepare
from experiments.schema import ConfigError
from experiments.stages.distillation import corpus
from experiments.stages.distillation.config import Distillation
from slim.distill import LOSSES

# Images of the stripes' shape, with ten labels for their four.
DIGITS = {"name": "digits", "batch_size": 16, "train_split": "train[:96]"}
SECTION = {"teacher": "train", "mixture": 1.0, "corpus": DIGITS}


def test_a_student_comes_to_say_what_its_teacher_says_of_the_corpus(stages):
    made = stages()
    student = made.model._replace(variables=jax.jit(made.network.init)(jax.random.key(1)))
    kept, live = (
        made.run("distill", student, cache_mib=mib, epochs=10.0, lr=0.02, **SECTION)
        for mib in (64, 0)
    )
    images = prepare(sets.load(DataConfig(**DIGITS)).train.inputs)
    goal, before, *after = (
        made.network.predict(model.variables, images) for model in (made.model, student, kept, live)
    )
    apart = [float(LOSSES["soft_targets"].value(logits, goal)) for logits in (before, *after)]
    assert max(apart[1:]) < 0.3 * apart[0]
    (file,) = made.directory.parent.parent.glob("cache/*/0.npy")
    assert np.load(file).shape == (96, 4)
    records = jsonl.read(made.directory / METRICS)
    evaluated = [record.step for record in records if "eval/top1" in record.values]
    assert evaluated == [6 * epoch for epoch in range(1, 11)]  # 96 images, 16 at a time


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": 0.9}, r"distill\.corpus: digits has labels .* set mixture = 1\.0"),
        ({"mixture_end": 0.5}, r"set mixture = 1\.0"),
        ({"terms": ({"loss": "decoupled"},)}, r"loss 'decoupled' looks at labels"),
        ({"corpus": {**DIGITS, "resize": (4, 4)}}, r"shape \(4, 4, 1\), .* have \(8, 8, 1\)"),
        (
            {"corpus": {**DIGITS, "name": "digitz"}},
            r"distill\.corpus: data\.name: unknown name 'digitz'",
        ),
    ],
)
def test_a_corpus_that_is_none_for_the_data_is_refused(stages, changes, message):
    with pytest.raises(ConfigError, match=message):
        stages().run("distill", **{**SECTION, **changes})


FIELDS = {
    "name": "test",
    "data": {"name": "digits", "batch_size": 64, "eval_batch_size": 64},
    "model": {"name": "mlp", "hidden": (8,)},
    "stages": ("train", "distill"),
}


def resolved(devices=1, **section):
    distill = {"teacher": "train", "mixture": 1.0, **section}
    return recipe.resolve(recipe.config(**FIELDS, distill=distill), devices)


def test_keys_have_the_corpus_where_there_is_one():
    plain, none, some, others = (
        resolved(**section).keys("data")["distill"]
        for section in (
            {},
            {"corpus": None},
            {"corpus": DIGITS},
            {"corpus": {**DIGITS, "batch_size": 32}},
        )
    )
    assert plain == none == "c443ee7d8e44"
    assert len({plain, some, others}) == 3
    assert "corpus" not in resolved().as_dict()["distill"]
    assert resolved(corpus=DIGITS).as_dict()["distill"]["corpus"]["name"] == "digits"


def test_a_dry_run_counts_the_corpus():
    made = resolved(jax.device_count(), corpus={**DIGITS, "batch_size": 32}, epochs=2.0)
    assert "distill     6 steps" in dry_run.describe(made)
    with pytest.raises(ConfigError, match=r"distill\.corpus\.batch_size = 20"):
        resolved(8, corpus={**DIGITS, "batch_size": 20})


def test_labels_are_learnt_where_they_are_the_datas_own():
    own = sets.info(DataConfig(name="digits", batch_size=8))
    half = Distillation(teacher="train", mixture=0.5)
    assert corpus.info(DataConfig(**DIGITS), half, own, "distill.corpus").num_train == 96

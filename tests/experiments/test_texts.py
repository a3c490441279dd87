"""A recipe of texts runs to its report; a job of texts trains alike on every mesh."""

import chex
import jax
import pytest

from experiments import dry_run, recipe, report, runner
from experiments.data import sets
from experiments.mesh import MeshConfig
from experiments.preemption import Preemption
from experiments.schema import ConfigError
from slim.models import bert
from slim.models.bert import BertConfig
from tests.experiments import jobs

# All words of the reviews, in a network that compiles fast.
SMALL = BertConfig(width=16, depth=1, heads=2, hidden=24, positions=16)
# Two projections of the first token; of all four, attention, and the perceptron.
MACS = 16 * 16 + 16 * 2 + 12 * (4 * 16 * 16 + 2 * 12 * 16 + 2 * 16 * 24)
# Positions, types, 3 norms; attention, perceptron, pooler, classifier.
OTHERS = 18 * 16 + 3 * 32 + 4 * 17 * 16 + (17 * 24 + 25 * 16) + 17 * 16 + 17 * 2
FIELDS = {
    "name": "reviews",
    "data": {
        "name": "rotten_tomatoes",
        "length": 12,
        "batch_size": 16,
        "eval_batch_size": 16,
        "train_split": "train[:40]",
        "eval_split": "train[:40]",
    },
    "model": {"name": "bert", "size": "small", "dropout": 0.0},
    "run": {"histogram_epochs": 0.0},
    "stages": ("train", "evaluate"),
    "train": {"epochs": 12, "optimizer": "adamw", "lr": 0.02, "eval_epochs": 12},
    "evaluate": {"batch_size": 16, "latency_rounds": 1},
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(bert.CONFIGS, "small", SMALL)


@pytest.mark.slow
def test_reviews_are_learnt_and_reported(small, tmp_path):
    made = recipe.resolve(FIELDS, 1)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        found = runner.run(made, tmp_path, Preemption(), command="test", pages=tmp_path)
    assert found == report.read(tmp_path / "report.json")
    row = found.models["train"]
    assert (row.samples, row.robustness_images) == (40, 40)
    assert row.top1 > 0.9
    assert row.robustness == {"clean": row.top1}
    assert (row.macs, row.parameters) == (MACS, 30_522 * 16 + OTHERS)
    curve = next(stage for stage in found.stages if stage.name == "train").curves["train/loss"]
    assert curve.values[-1] < 0.5 * curve.values[0]
    page = (tmp_path / "report.md").read_text()
    assert "Models, on 40 examples" in page
    assert "image" not in page.replace("robustness_images", "")


def test_a_dry_run_speaks_of_texts(small):
    shown = dry_run.describe(recipe.resolve(FIELDS, jax.device_count()))
    assert "40 training and 40 evaluation texts of shape (12,), 2 classes" in shown
    assert "one text    " in shown
    assert "activations for 2 texts at a time" in shown
    assert f"{MACS / 1000:.3g} k MACs" in shown


def test_texts_longer_than_the_model_has_positions_are_refused(small):
    made = recipe.resolve({**FIELDS, "data": {**FIELDS["data"], "length": 17}}, 1)
    with pytest.raises(
        ConfigError, match=r"cannot take texts of shape \(17,\): input of length 17: .* 16"
    ):
        dry_run.check_model(made, sets.info(made.settings.data))


@pytest.mark.slow
def test_a_job_of_texts_trains_alike_on_every_mesh(monkeypatch, make_job):
    monkeypatch.setitem(bert.CONFIGS, "small", jobs.BERT)
    model = {"name": "bert", "size": "small", "dropout": 0.1}
    alone, split = (
        jobs.trained(make_job(model=model, dataset=jobs.words(), **fields))
        for fields in ({}, {"devices": 4, "layout": MeshConfig(fsdp=2)})
    )
    chex.assert_trees_all_close(split.variables, alone.variables, rtol=1e-3, atol=1e-4)
    table = split.variables["params"]["embeddings"]["token"]
    assert table.sharding.spec == jax.P("fsdp")

"""Batches of several lengths pass through the trainer, stages and `measure`, of whatever BERT."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from experiments import evaluation
from experiments import mesh as meshes
from experiments.measure import EvaluateConfig, Measured, measure
from slim.models import bert
from tests.experiments import jobs
from tests.experiments.stages.conftest import Stages

quickly_compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

BUCKETS = (4, 6)
MODEL = {"name": "bert", "size": "small", "dropout": 0.0}


def bucketed():
    return dataclasses.replace(jobs.words(), buckets=BUCKETS)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bert.CONFIGS, "small", jobs.BERT)
        yield Stages(tmp_path_factory.mktemp("stages"), MODEL, None, bucketed())


@pytest.fixture(scope="module")
def small(stages):
    """Without some of its heads and hidden units."""
    return stages.run("shrink", batches=3, keep_ratio=0.6, budget="params")


@pytest.fixture(scope="module")
def integers(stages, small):
    """What is left of it, in integers that were calibrated on texts of three lengths."""
    return stages.run("quantize", small, batches=3)


def logits_do_not_depend_on_padding(stages, model):
    predict = quickly_compiled(stages.network.shrunk(model.plans).predict)
    lengths = set()
    for batch in stages.dataset.eval_batches():
        ids = batch["input"]
        padded = np.pad(ids, ((0, 0), (0, jobs.LENGTH - ids.shape[1])))
        lengths.add(ids.shape[1])
        np.testing.assert_allclose(
            predict(model.variables, ids), predict(model.variables, padded), atol=1e-5
        )
    return lengths == {*BUCKETS, jobs.LENGTH}


def test_logits_are_those_of_texts_padded_further(stages):
    assert logits_do_not_depend_on_padding(stages, stages.model)


@pytest.mark.slow
@pytest.mark.parametrize("made", ["small", "integers"])
def test_logits_of_what_was_cut_are_too(stages, request, made):
    assert logits_do_not_depend_on_padding(stages, request.getfixturevalue(made))


@pytest.mark.slow
def test_measures_are_those_of_one_length(stages, small):
    config = EvaluateConfig(batch_size=8, latency_rounds=1, attacks=(), corruptions=())
    models = [
        Measured(name, stages.network.shrunk(model.plans).predict, model.variables)
        for name, model in {"whole": stages.model, "small": small}.items()
    ]
    rows, padded = (
        measure(models, data.eval_batches(), config) for data in (stages.dataset, jobs.words())
    )
    for row, other in zip(rows, padded, strict=True):
        assert (row.samples, row.top1, row.macs) == (jobs.SIZE, other.top1, other.macs)
        assert row.loss == pytest.approx(other.loss, abs=1e-5)


@pytest.mark.slow
def test_a_model_is_trained_and_scored_on_all_lengths(stages):
    variables = stages.run("train", epochs=4.0, lr=0.1).variables
    scores, padded = (
        evaluation.make(stages.network, data, meshes.build(meshes.MeshConfig()))(variables)
        for data in (bucketed(), jobs.words())
    )
    assert scores["top1"] > 0.9
    assert scores == pytest.approx(padded, abs=1e-5)

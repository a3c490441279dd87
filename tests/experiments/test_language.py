"""Models of language in the trainer: their losses, the routers' biases, and what is scored."""

import dataclasses
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import build, evaluation, language, recipe, train_step
from experiments import mesh as meshes
from experiments.data.info import LANGUAGE
from experiments.language import SOWN, Loads
from experiments.logs import jsonl
from experiments.measure import EvaluateConfig, Measured, measure
from experiments.mesh import MeshConfig
from experiments.precision import PRECISIONS
from experiments.schema import ConfigError
from tests.experiments import jobs

AHEAD = {**jobs.DECODER, "predict_ahead": 1, "balance_weight": 0.01, "z_weight": 0.001}


def made(model=jobs.DECODER, mesh=None):
    return build.network(model, jobs.language().info, PRECISIONS["float32"], mesh)


@pytest.fixture(scope="module")
def batch():
    return jobs.language().batch_at(0, 0)


def test_the_loss_is_the_cross_entropy_and_every_loss_that_layers_sow(batch):
    net = made(AHEAD)
    variables = jax.jit(net.init)(jax.random.key(0))
    ids, labels = batch["input"], batch["label"]
    state = train_step.start(variables, optax.sgd(0.1), seed=0, initial_scale=1.0, ema=False)
    grads, found, collections = jax.jit(
        lambda state: train_step.gradients(
            train_step.supervised(net, 0.0),
            train_step.StepConfig(),
            lambda key, inputs: inputs,
            state,
            {"input": ids, "label": labels},
            (),
        )
    )(state)
    assert {name for name in found if name.startswith("loss/")} == {
        *("loss/next", "loss/ahead", "loss/sequence", "loss/z")
    }
    parts = [value for name, value in found.items() if name.startswith("loss/")]
    np.testing.assert_allclose(found["loss"], sum(parts), rtol=1e-6)

    logits = np.asarray(net.predict(variables, ids), np.float64)
    chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    losses = np.log(np.exp(logits).sum(-1)) - chosen
    np.testing.assert_allclose(found["loss/next"], losses.mean(), rtol=1e-5)
    assert float(found["top1"]) == pytest.approx((logits.argmax(-1) == labels).mean())
    # The first module ahead foretells two tokens further; a fresh one knows nothing.
    assert float(found["loss/ahead"]) == pytest.approx(0.3 * math.log(jobs.VOCABULARY), rel=0.02)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
    # What is sown is no part of the state.
    chex.assert_trees_all_equal_shapes_and_dtypes(collections, state.collections)


def test_biases_are_annealed_as_the_learning_rate_falls(make_job, batch):
    plain, annealed = (
        make_job(
            dataset=jobs.language(),
            model=jobs.DECODER,
            schedule="linear",
            warmup_epochs=0.5,
            anneal_biases=whether,
        )
        for whether in (False, True)
    )
    assert plain.bias_share is None
    last = annealed.total_steps
    shares = [float(annealed.bias_share(step)) for step in (0, last // 2, last)]
    np.testing.assert_allclose(shares, [1, 1 - last // 2 / last, 0], atol=1e-6)

    net = made()
    variables = jax.jit(net.init)(jax.random.key(0))
    biases = []
    for share in (None, lambda step: 0.25):
        step = train_step.make_step(
            train_step.supervised(net, 0.0),
            optax.sgd(0.1),
            lambda step: 0.1,
            train_step.StepConfig(),
            lambda key, inputs: inputs,
            give_gradients=False,
            bias_share=share,
        )
        state = train_step.start(variables, optax.sgd(0.1), seed=0, initial_scale=1.0, ema=False)
        state, _ = jax.jit(step)(state, {"input": batch["input"], "label": batch["label"]})
        biases.append(state.collections["router"]["sparse"]["mlp"]["bias"])
    assert np.any(biases[0])
    chex.assert_trees_all_close(biases[1], 0.25 * biases[0], rtol=1e-6)


def test_biases_move_towards_balance_in_training_alone(batch):
    net = made()
    variables = jax.jit(net.init)(jax.random.key(0))
    _, changed = jax.jit(net.train)(variables, batch["input"], jax.random.key(0))
    bias = changed["router"]["sparse"]["mlp"]["bias"]
    load = np.asarray(jax.jit(net.observe)(variables, batch["input"])[1].load)
    np.testing.assert_array_equal(np.sign(load.mean(-1, keepdims=True) - load), np.sign(bias))
    assert load.sum() == 2 * batch["input"].size
    metrics = changed[SOWN].metrics
    np.testing.assert_allclose(
        metrics["router_0/max_violation"], load[0].max() / load[0].mean() - 1, rtol=1e-6
    )
    assert float(metrics["router_0/dropped_share"]) == 0


def test_a_run_learns_and_logs_what_routers_do(make_job):
    job = make_job(dataset=jobs.language(), model=jobs.DECODER, epochs=4.0, lr=0.5, keep="best")
    outcome = jobs.trained(job)
    assert np.any(outcome.variables["router"]["sparse"]["mlp"]["bias"])
    records = [record.values for record in jsonl.read(job.directory / "metrics.jsonl")]
    scores = [values for values in records if "eval/perplexity" in values]
    assert scores[-1]["eval/perplexity"] < 0.5 * jobs.VOCABULARY
    assert scores[-1]["eval/bits_per_byte"] == pytest.approx(
        scores[-1]["eval/loss"] / math.log(2) / 2.0
    )
    assert "eval/max_violation" in scores[-1]
    assert {"train/router_0/max_violation", "train/loss/next"} <= records[0].keys()
    # `keep` hands on the lowest perplexity, not the highest.
    best = min(values["eval/perplexity"] for values in scores)
    found = evaluation.make(job.network, job.dataset, job.mesh)(outcome.variables)
    assert found["perplexity"] == pytest.approx(best, rel=1e-5)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(make_job):
    model = {**jobs.DECODER, "bias_rate": 0.0}
    settings = {"dataset": jobs.language(), "model": model, "epochs": 0.2, "lr": 0.1}
    whole, parts = (
        jobs.trained(make_job(accumulate=count, **settings)).variables for count in (1, 2)
    )
    chex.assert_trees_all_close(whole, parts, atol=1e-6)


def test_several_devices_train_as_one_does(make_job):
    layout = MeshConfig(fsdp=2, expert=2)
    settings = {"dataset": jobs.language(), "epochs": 0.4, "lr": 0.1}
    one = jobs.trained(make_job(model=jobs.DECODER, **settings))
    job = make_job(model=jobs.DECODER, devices=4, layout=layout, **settings)
    job = dataclasses.replace(job, network=made(mesh=job.mesh))
    several = jobs.trained(job)
    chex.assert_trees_all_close(
        jax.device_get(one.variables), jax.device_get(several.variables), atol=1e-5
    )


@pytest.mark.parametrize("rows", [8, 7])
def test_loads_are_counted_where_nothing_pads(rows):
    loads = Loads(jnp.array([[3, 1]]), jnp.array([0]))
    weights = (jnp.arange(8) < rows).astype(jnp.float32)
    found = language.of_whole(loads, weights)
    assert int(found.load.sum()) == (4 if rows == 8 else 0)
    scores = language.load_scores(found)
    assert scores.get("max_violation") == (0.5 if rows == 8 else None)


def test_what_is_measured_of_models_with_and_without_experts():
    data = jobs.language()
    rows = []
    for name in ("deepseek", "deepseek_dense"):
        net = made({**jobs.DECODER, "name": name})
        variables = jax.jit(net.init)(jax.random.key(0))
        measured = Measured(
            name,
            net.predict,
            variables,
            observe=net.observe if net.routes else None,
            active_parameters=net.active_parameters(variables["params"]),
        )
        config = EvaluateConfig(batch_size=8, latency_rounds=1, attacks=(), corruptions=())
        rows += measure(
            [measured], data.eval_batches(8), config, modality=LANGUAGE, bytes_per_token=2.0
        )
    sparse, dense = rows
    assert sparse.samples == jobs.SIZE * jobs.LENGTH
    assert sparse.perplexity == pytest.approx(math.exp(sparse.loss), rel=1e-5)
    assert sparse.bits_per_byte == pytest.approx(sparse.loss / math.log(4), rel=1e-5)
    assert (math.isnan(sparse.macro_f1), math.isnan(dense.max_violation)) == (True, True)
    assert (sparse.robustness, sparse.dropped_share) == ({}, 0.0)
    assert sparse.max_violation_worst >= sparse.max_violation >= 0
    # Of four experts of one layer, three matrices each, a token meets two.
    assert sparse.parameters - sparse.active_parameters == 2 * 3 * 16 * 8
    assert dense.parameters == dense.active_parameters
    assert sparse.active_parameters - 16 * 4 == dense.active_parameters  # the router
    assert "macro_f1" not in json.loads(sparse.model_dump_json())


def test_better_is_lower_perplexity_and_higher_accuracy():
    of = evaluation.CRITERIA[LANGUAGE]
    assert of.quality({"perplexity": 10.0}) > of.quality({"perplexity": 11.0}) > 0
    assert of.gain(10.0, 11.0) == 1.0
    others = {name: each for name, each in evaluation.CRITERIA.items() if name != LANGUAGE}
    assert all(each.quality({"top1": 0.9}) == 0.9 for each in others.values())
    assert all(each.gain(0.9, 0.8) > 0 for each in others.values())


@pytest.mark.parametrize("kind", ["prune", "sensitivity", "depth", "exits"])
def test_stages_that_take_no_model_of_language_are_refused_before_anything_runs(kind):
    values = recipe.config(
        name="x",
        data={"name": "random_tokens", "batch_size": 8, "length": 8, "vocabulary": 300},
        model=jobs.DECODER,
        stages=("train", kind),
    )
    with pytest.raises(ConfigError, match=f"'{kind}' is of kind .* language.*these do: train"):
        recipe.resolve(values, 1)


def test_models_of_other_data_are_refused():
    data = {"name": "random_tokens", "batch_size": 8, "length": 8, "vocabulary": 300}
    values = recipe.config(name="x", data=data, model={"name": "bert"}, stages=("train",))
    with pytest.raises(ConfigError, match=r"'bert' does not read .* sequence; choose .* deepseek"):
        recipe.resolve(values, 1)


def test_a_capacity_and_several_devices_of_experts_exclude_each_other():
    mesh = meshes.build(MeshConfig(expert=2), jax.devices()[:2])
    with pytest.raises(ConfigError, match=r"capacity = 1.0: .* set it to 0"):
        made({**jobs.DECODER, "capacity": 1.0}, mesh)

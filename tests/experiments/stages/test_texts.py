"""Stages on texts: what trains, cuts and quantizes networks of images does so of BERT."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import graph
from slim.measure import size
from slim.models import bert
from tests.experiments import jobs
from tests.experiments.stages.conftest import Stages

quickly_compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

HEADS = "params/layer_0/attention/key/kernel:1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stages of a BERT with one layer of 4 heads, on texts whose first token is the label."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bert.CONFIGS, "small", jobs.BERT)
        model = {"name": "bert", "size": "small"}
        yield Stages(tmp_path_factory.mktemp("stages"), model, None, jobs.words())


@pytest.fixture(scope="module")
def trained(made):
    """A model that has learnt the texts."""
    return made.run("finetune", epochs=3.0, lr=0.1)


def predicted(made, model):
    network = made.network.shrunk(model.plans)
    return quickly_compiled(network.predict)(model.variables, made.dataset.eval.inputs)


def accuracy(made, model):
    return float((predicted(made, model).argmax(-1) == made.dataset.eval.labels).mean())


def test_training_learns_what_texts_say(made, trained):
    assert accuracy(made, trained) > 0.9 > accuracy(made, made.model)


@pytest.fixture(scope="module")
def small(made, trained):
    """Half of the heads, and half of what multiplies."""
    rules = [{"pattern": HEADS, "keep": 0.5}]
    return made.run("shrink", trained, keep_ratio=0.5, rules=rules, batches=2)


def test_heads_are_cut_and_the_small_model_is_the_masked_one(made, trained, small):
    (plan,) = small.plans
    assert len(plan.keep[HEADS]) == 2
    layer = small.variables["params"]["layer_0"]
    assert layer["attention"]["query"]["kernel"].shape[1] == 2
    whole, left = (graph.cost(n.graph()).macs for n in (made.network, made.network.shrunk([plan])))
    assert left <= 0.5 * whole
    masked = graph.mask(plan, trained.variables)
    expected = predicted(made, trained._replace(variables=masked))
    chex.assert_trees_all_close(predicted(made, small), expected, atol=1e-4)


def test_a_small_model_does_not_look_at_padding_either(made, small):
    params = small.variables["params"]
    table = params["embeddings"]["token"].at[0].add(1.0)
    moved = {"params": {**params, "embeddings": {**params["embeddings"], "token": table}}}
    assert (made.dataset.eval.inputs == 0).any()
    chex.assert_trees_all_equal(
        predicted(made, small), predicted(made, small._replace(variables=moved))
    )


def test_a_small_model_trains_on(made, small):
    assert accuracy(made, made.run("finetune", small, epochs=3.0, lr=0.03)) > 0.9


@pytest.mark.slow
def test_layers_are_left_out(made, trained):
    shallow = made.run("depth", trained, keep_ratio=0.75, batches=1)
    assert len(shallow.plans[0].blocks) == 1
    assert bool(jnp.isfinite(predicted(made, shallow)).all())


@pytest.mark.slow
def test_pruned_weights_stay_zero_in_integers_that_are_trained(made, trained):
    sparse = made.run("prune", trained, keep_ratio=0.5, epochs=1.0, lr=0.05)
    before = size.nonzero(sparse.variables["params"])
    assert before < size.nonzero(trained.variables["params"])
    integers = made.run("quantize", sparse, batches=1, epochs=0.5, lr=0.001)
    network = made.network.shrunk(integers.plans)
    assert size.nonzero(network.weights(integers.variables)) <= before
    assert accuracy(made, integers) > 0.9


@pytest.mark.parametrize(
    "section",
    [
        {"products": "int8"},
        pytest.param(
            {"rounding": "gptq", "weights": "int4", "activations": "float"}, marks=pytest.mark.slow
        ),
    ],
)
def test_integers_know_what_floats_do(made, trained, section):
    integers = made.run("quantize", trained, batches=4, **section)
    assert size.stored_bytes(integers.variables) < size.stored_bytes(trained.variables)
    assert accuracy(made, integers) > 0.9
    assert np.ptp(predicted(made, integers) - predicted(made, trained)) > 0


@pytest.mark.slow
def test_formats_are_chosen_by_the_latency_of_sites(made, trained):
    mixed = {"budget": "latency", "keep_ratio": 1.0, "latency_batch": 4, "latency_rounds": 2}
    integers = made.run("quantize", trained, batches=1, mix=True, mixed={**mixed, "examples": 8})
    assert accuracy(made, integers) > 0.5

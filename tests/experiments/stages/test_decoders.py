"""Other stages on a decoder with experts: their weights in INT4, narrower ones, and a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.logs import jsonl
from experiments.schema import ConfigError
from slim.measure.classification import cross_entropy
from slim.models.deepseek.count import flops, flops_of
from slim.paths import flatten, unflatten
from tests.experiments import jobs

IDS = jobs.language().batch_at(0, 0)["input"]
PLACE = "params/sparse/mlp/experts/"
INT4 = {"pattern": "*/experts/*", "weights": "int4", "activations": "float"}
QUANTIZE = {"weights": "float", "activations": "float", "edges": "same", "rules": (INT4,)}


@pytest.fixture
def made(stages):
    return stages(jobs.DECODER, dataset=jobs.language())


def rounded(w, group):
    """Weights `(layers, experts, inputs, outputs)` in steps of a seventh of their group's range."""
    grouped = np.asarray(w).reshape(*w.shape[:2], -1, group, w.shape[-1])
    step = np.abs(grouped).max(axis=3, keepdims=True) / 7
    return (np.round(grouped / step) * step).reshape(w.shape)


def test_experts_in_int4_are_those_rounded_group_by_group(made):
    # Of sizes at which rounding can be seen.
    grown = jax.tree.map(lambda leaf: 8 * leaf, made.model.variables["params"])
    model = made.model._replace(variables={**made.model.variables, "params": grown})
    small = made.run("quantize", model, group=4, weight_range="minmax", batches=1, **QUANTIZE)
    net = made.network.shrunk(small.plans)
    flat = flatten(model.variables)
    same = {path: rounded(leaf, 4) for path, leaf in flat.items() if path.startswith(PLACE)}
    expected = made.network.predict(unflatten({**flat, **same}), IDS)
    logits, loads = jax.jit(net.observe)(small.variables, IDS)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.abs(logits - made.network.predict(model.variables, IDS)).max() > 1e-2
    assert loads.load.sum() == 2 * IDS.size

    # Each weight is kept once, two in a byte.
    kept = {path: leaf for path, leaf in flatten(small.variables).items() if "/values" in path}
    assert {leaf.nbytes for leaf in kept.values()} == {4 * 16 * 8 // 2}
    assert len(kept) == 3
    assert not any(path.startswith(PLACE) for path in flatten(small.variables))
    assert net.active_parameters(net.weights(small.variables)) == made.network.active_parameters(
        model.variables["params"]
    )


def test_experts_are_not_trained_rounded(made):
    with pytest.raises(ConfigError, match=r"quantize\.epochs = 1: a model with experts cannot be"):
        made.run("quantize", epochs=1.0, batches=1, **QUANTIZE)


def test_experts_grow_narrow_alike_in_a_layer(made):
    rules = ({"pattern": "*/experts/gate:*"}, {"pattern": "*", "keep": 1.0})
    small = made.run("shrink", score="l1", keep_ratio=0.9, budget="params", batches=1, rules=rules)
    net = made.network.shrunk(small.plans)
    shapes = {path: leaf.shape for path, leaf in flatten(small.variables).items()}
    before = {path: leaf.shape for path, leaf in flatten(made.model.variables).items()}
    (hidden,) = {shapes[PLACE + each][-1] for each in ("gate", "up")}
    assert hidden < 8
    narrow = {"gate": (1, 4, 16, hidden), "up": (1, 4, 16, hidden), "down": (1, 4, hidden, 16)}
    assert shapes == {**before, **{PLACE + each: shape for each, shape in narrow.items()}}
    # What is gone may as well be zero.
    (keep,) = small.plans[0].keep.values()
    masked = {
        path: leaf * np.isin(np.arange(8), keep).astype(np.float32)
        if path.endswith(("experts/gate", "experts/up"))
        else leaf
        for path, leaf in flatten(made.model.variables).items()
    }
    logits, _ = jax.jit(net.observe)(small.variables, IDS)
    np.testing.assert_allclose(logits, made.network.predict(unflatten(masked), IDS), atol=1e-6)
    config = made.network.language.config
    assert flops_of(small.variables["params"], 2, 4) == flops(config, 4) - 2 * 2 * 3 * 16 * (
        8 - hidden
    )


def test_a_teacher_and_the_next_tokens_share_the_loss(made):
    student = made.model._replace(variables=jax.jit(made.network.init)(jax.random.key(5)))
    section = {"teacher": "train", "epochs": 0.1, "mixture": 0.25, "temperature": 1.0, "lr": 1e-3}
    made.run("distill", student, **section)
    (record, *_) = jsonl.read(made.directory / "metrics.jsonl")
    context = made.context("distill", section)
    batch = next(context.dataset.batches(context.stage_seed, process_index=0, process_count=1))
    mine, theirs = (
        jax.nn.log_softmax(made.network.predict(model.variables, batch["input"]))
        for model in (student, made.model)
    )
    divergence = float((jnp.exp(theirs) * (theirs - mine)).sum(-1).mean())
    labels = float(cross_entropy(mine, batch["label"]).mean())
    assert record.values["train/loss"] == pytest.approx(0.75 * labels + 0.25 * divergence, rel=1e-5)
    assert record.values["train/loss/soft_targets"] == pytest.approx(divergence, rel=1e-3)

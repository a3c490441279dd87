"""The bench of quantization: what is compared is the same, and nothing is lost without qwix."""

import dataclasses
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import integers, quant, quantized_resnet, quantized_training, quantizing
from experiments.bench.quantized_resnet import WAYS, Batch, Judged, Subject, policy
from experiments.bench.record import Row


class Tiny(nn.Module):
    """Two layers with a batch normalization between."""

    @nn.compact
    def __call__(self, images, train):
        x = images.reshape(len(images), -1)
        x = nn.Dense(8, use_bias=False, name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(3, name="head")(x)


@pytest.fixture(scope="module")
def subject():
    keys = jax.random.split(jax.random.key(0), 3)
    batches = [
        Batch(jax.random.normal(key, (16, 4, 4, 1)), jnp.arange(16, dtype=jnp.int32) % 3)
        for key in keys
    ]
    variables = dict(Tiny().init(jax.random.key(1), batches[0].images, train=False))
    return Subject(Tiny(), variables, batches[:2], batches[2])


@pytest.mark.parametrize("way", [way for way in WAYS.values() if not way.anew])
def test_eight_bits_are_near_the_float_network(subject, way):
    exact = quantized_resnet.evaluate(partial(subject.predict, subject.variables), subject.test)
    logits = quantized_resnet.ours(subject, "int8", "int8", way)
    found = quantized_resnet.judge(logits, subject.test, exact)
    assert 0 < found.error < 0.05


def test_batch_statistics_are_those_of_the_calibration(subject):
    # In training mode the float network uses them too, if it sees one batch alone.
    one = dataclasses.replace(subject, calibration=subject.calibration[:1])
    batch = one.calibration[0]
    exact, _ = one.train(one.variables, batch.images)
    ways = {anew: quantized_resnet.Way("minmax", anew) for anew in (False, True)}
    kept, anew = (
        quantized_resnet.judge(
            quantized_resnet.ours(one, "int8", "int8", ways[anew]), batch, np.asarray(exact)
        ).error
        for anew in (False, True)
    )
    assert anew < 0.05 < kept


def test_the_default_is_judged_and_the_best_of_each():
    ours = [Judged(0.8, 0.3), Judged(0.9, 0.4)]
    rows = quantized_resnet.judged_rows("net", ours, [Judged(0.85, 0.5), Judged(0.7, 0.2)])
    figures = {row.name: (row.ours, row.peer, row.met) for row in rows}
    assert figures == {
        "net, default: accuracy": (0.8, 0.85, False),
        "net, default: logits' error": (0.3, 0.5, True),
        "net, best: accuracy": (0.9, 0.85, True),
        "net, best: logits' error": (0.3, 0.2, False),
    }


def test_a_peer_that_rounds_elsewhere_is_refused(subject):
    statistics = {"count": 1}
    same = {"quant_stats": {"stem": {"dot_general0_lhs": statistics}}}
    quantized_resnet.require_same_sites(subject, same, "int8")
    more = {"quant_stats": {**same["quant_stats"], "norm": {"mul0": statistics}}}
    with pytest.raises(RuntimeError, match="params/norm/kernel"):
        quantized_resnet.require_same_sites(subject, more, "int8")


def test_training_lowers_the_loss(subject):
    trainee = quantized_training.our_trainee(subject, policy("int4", "int4"), "lsq")
    step, carry = jax.jit(quantized_training.make_step(trainee)), quantized_training.start(trainee)
    _, vectors = carry[0]
    losses = []
    for _ in range(20):
        carry, loss = step(carry, subject.test)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), vectors, carry[0][1])
    assert all(jax.tree.leaves(moved))


def test_a_loss_that_is_not_finite_ends_the_training(subject):
    broken = subject.test._replace(images=subject.test.images * jnp.nan)
    trainee = quantized_training.flax_trainee(subject.module, subject.variables)
    with pytest.raises(RuntimeError, match="after 1 steps the loss is nan"):
        quantized_training.accuracy(trainee, [[broken]], subject.test)


def test_a_peer_that_quantizes_less_is_refused():
    eight, four = jnp.zeros(8, jnp.int8), jnp.zeros(4, jnp.int8)
    quantizing.require_equal_bytes([eight], [four, four, jnp.zeros(3)])
    with pytest.raises(RuntimeError, match="8 weights in int8 here, 4 in qwix"):
        quantizing.require_equal_bytes([eight], [four])


def test_integers_are_timed_beside_floats(monkeypatch):
    monkeypatch.setattr(integers, "SECONDS", 0.0)
    rows = integers.compare("tiny", lambda p, x: x @ p, jnp.eye(4), jnp.ones((2, 4)))
    assert [row.name for row in rows] == ["tiny: W8A8 over float", "tiny: W8 over float"]
    assert all(row.ratio > 0 and row.met is None for row in rows)


def test_without_qwix_the_other_rows_are_recorded(monkeypatch, capsys, subject):
    recorded = {}
    encoder = quantizing.Encoder(Tiny(), subject.variables, (subject.test.images,))
    monkeypatch.setitem(sys.modules, "qwix", None)
    monkeypatch.setattr(quantizing, "minilm", lambda: encoder)
    monkeypatch.setattr(integers, "measure", lambda: [Row("integers", 1.0)])
    monkeypatch.setattr(quant, "record", lambda name, rows: recorded.update({name: rows}))
    quant.main()
    assert [row.name for row in recorded["quant"]] == ["integers"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "qwix is missing, pip install -e '.[bench]'" in said

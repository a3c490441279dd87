"""The bench of early exit: what its rows compare."""

import numpy as np
import pytest

from experiments.bench import dynamic
from experiments.bench.dynamic import BATCH, FULL_BATCHES, batched_rows, given, single_row
from experiments.timing import Latency
from slim import models


def test_exits_are_given_in_shares():
    for shares in dynamic.DISTRIBUTIONS.values():
        exits = given(shares, dynamic.EXAMPLES)
        counts = np.bincount(exits, minlength=len(shares)) / dynamic.EXAMPLES
        np.testing.assert_allclose(counts, np.array(shares) / sum(shares), atol=1 / 512)
        assert not (np.diff(exits) >= 0).all()


def test_the_ideal_is_the_sum_of_every_example_by_itself():
    exits = {8: np.array([0, 0, 2]), 4: np.array([1])}
    batch = FULL_BATCHES * BATCH
    times = {
        (8, 0): Latency((1.0 * batch, 2.0 * batch), 1),
        (8, 1): Latency((50.0, 60.0), 1),
        (8, 2): Latency((10.0 * batch, 20.0 * batch), 1),
        (4, 1): Latency((100.0 * batch, 300.0 * batch), 1),
    }
    ideal = dynamic._ideal(dynamic._counts(exits), times)
    assert ideal.samples_s == (112.0, 324.0)


@pytest.mark.slow
def test_rows_of_a_small_network(monkeypatch):
    config = models.bert.BertConfig(16, 3, 4, 24, vocabulary=20, positions=dynamic.LENGTH)
    monkeypatch.setitem(models.bert.CONFIGS, "small", config)
    monkeypatch.setattr(dynamic, "SIZES", (4, BATCH))
    monkeypatch.setattr(dynamic, "DISTRIBUTIONS", {"even": (1, 1, 1)})
    net = dynamic.network("small")
    ids = dynamic.texts(2, dynamic.LENGTH)
    logits = net.segments(net.variables, ids)
    for fn, expected in zip(net.depths, logits, strict=True):
        np.testing.assert_allclose(fn(net.variables, ids), expected, atol=1e-5)
    rows = [*batched_rows(net, examples=6, lengths=(8,), rounds=1), single_row(net, rounds=1)]
    assert [row.name.split(":")[0] for row in rows] == [
        "even",
        "even, lengths 8",
        "one by one, even",
    ]
    assert [row.goal for row in rows] == [dynamic.GOAL, "", ""]
    assert all(row.ours > 0 and row.peer > 0 for row in rows)

"""The bench of pruning: equal networks are compared, and nothing is lost without Torch-Pruning."""

import dataclasses
import sys

import pytest

from experiments.bench import prune, shrunken
from experiments.bench.record import Row
from slim import models


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setattr(shrunken, "SECONDS", 0.0)
    full, by_hand = (
        models.ViT(width=width, depth=1, heads=1, num_classes=10, patch_size=4) for width in (16, 8)
    )
    return shrunken.Case("tiny", full, by_hand, (2, 8, 8, 3), shrunken.centred, shrunken.rescaled)


@pytest.mark.slow
def test_the_shrunk_network_is_the_one_by_hand(case):
    rows = shrunken.measure(case)
    lengths = [row for row in rows if row.unit == "instructions"]
    assert [row.ratio for row in lengths] == [1.0, 1.0]


def test_networks_that_compute_something_else_are_not_compared(case):
    with pytest.raises(RuntimeError, match="tiny: forward: results differ"):
        shrunken.measure(dataclasses.replace(case, translated=lambda variables: variables))


def test_networks_of_other_shapes_are_not_compared(case):
    with pytest.raises(RuntimeError, match="other shapes"):
        shrunken.measure(dataclasses.replace(case, by_hand=case.full))


def test_without_torch_pruning_the_other_rows_are_recorded(monkeypatch, capsys):
    recorded = {}
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    monkeypatch.setattr(shrunken, "CASES", ["case"])
    monkeypatch.setattr(shrunken, "measure", lambda case: [Row(case, 1.0)])
    monkeypatch.setattr(prune, "sparse_step", lambda: [Row("sparse", 1.0)])
    monkeypatch.setattr(prune, "record", lambda name, rows: recorded.update({name: rows}))
    prune.main()
    assert [row.name for row in recorded["prune"]] == ["case", "sparse"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "torch_pruning is missing, pip install -e '.[bench]'" in said

"""A bench's rows: which figure a goal judges, and that what is written is what was given."""

import json

import pytest

from experiments.bench.record import Row, record


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("a", 2.0, 4.0, "<= 0.5"), 0.5, True),
        (Row("a", 2.0, 4.0, ">= 0.6"), 0.5, False),
        (Row("a", 2.0, 4.0, ">= 0.6", paired=0.7), 0.7, True),
        (Row("a", 2.0, goal="== 2"), None, True),
        (Row("a", 2.0, 4.0), 0.5, None),
    ],
)
def test_a_goal_judges_the_ratio_or_the_figure_without_a_peer(row, ratio, met):
    assert row.ratio == ratio
    assert row.met is met


@pytest.mark.parametrize("goal", ["fast", "< 1", "<= ", "<=1"])
def test_a_goal_that_cannot_be_judged_is_refused(goal):
    with pytest.raises(ValueError, match="<= NUMBER"):
        Row("a", 1.0, goal=goal)


def test_a_peer_of_zero_is_refused():
    with pytest.raises(ValueError, match="peer = 0"):
        Row("a", 1.0, 0.0)


def test_what_is_written_is_what_was_measured(tmp_path, capsys):
    record("speed", [Row("a", 2.0, 4.0, "<= 0.4", "s"), Row("b", 3.0)], tmp_path)
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["rows"] == [
        {"name": "a", "ours": 2.0, "peer": 4.0, "ratio": 0.5, "goal": "<= 0.4", "met": False}
        | {"unit": "s"},
        {"name": "b", "ours": 3.0, "peer": None, "ratio": None, "goal": "", "met": None},
    ]
    assert written["command"] == "python -m experiments.bench.speed"
    assert {"jax", "python"} <= written["versions"].keys()
    assert written["machine"]["cores"] >= 1
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["name", "ours", "peer", "unit", "ratio", "goal", "met"]
    assert table[1].split()[-1] == "NO"

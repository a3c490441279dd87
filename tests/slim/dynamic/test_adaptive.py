import pytest

from slim.dynamic.adaptive import Choice, Variant, choose_variant

TABLE = {
    "full": Variant(0.90, {1: 0.4, 8: 1.6}),
    "half": Variant(0.85, {1: 0.2, 8: 0.8}),
    "tiny": Variant(0.70, {1: 0.1, 8: 0.3}),
}


@pytest.mark.parametrize(
    ("load", "target", "expected"),
    [(1, 1.0, "full"), (1, 0.4, "full"), (1, 0.39, "half"), (8, 1.0, "half"), (9, 1.0, "half"),
     (10, 1.0, "tiny"), (16, 0.6, "tiny")],
)  # fmt: skip
def test_most_accurate_in_time(load, target, expected):
    assert choose_variant(TABLE, target, load).variant == expected


def test_equally_accurate_the_fastest():
    table = {"slow": Variant(0.9, {1: 0.3}), "fast": Variant(0.9, {1: 0.2})}
    assert choose_variant(table, 1.0, load=1).variant == "fast"


@pytest.mark.parametrize(("load", "seconds"), [(1, 0.4), (2, 1.6), (8, 1.6), (9, 2.0), (24, 4.8)])
def test_expected_seconds(load, seconds):
    assert TABLE["full"].expected(load) == pytest.approx(seconds)


def test_a_batch_measured_faster_than_a_smaller_one_is_used():
    assert Variant(0.9, {1: 0.5, 4: 0.3}).expected(1) == 0.3


def run(loads, **settings):
    state, seen = Choice(), []
    for load in loads:
        state = choose_variant(TABLE, 1.0, load, state, **settings)
        seen.append(state.variant)
    return seen


def test_faster_at_once_more_accurate_after_patience():
    assert run([1, 8, 1, 1, 1, 1]) == ["full", "half", "half", "half", "full", "full"]
    assert run([1, 8, 1, 1], patience=1) == ["full", "half", "full", "full"]


def test_wavering_load_does_not_flap():
    assert set(run([1, 8] * 5)[1:]) == {"half"}
    assert len(set(run([1, 8] * 5, patience=1)[1:])) == 2


def test_changes_up_need_time_to_spare():
    table = {"good": Variant(0.9, {1: 0.95}), "fast": Variant(0.8, {1: 0.1})}
    state = Choice("fast")
    for _ in range(5):
        state = choose_variant(table, 1.0, 1, state, margin=0.1)
    assert state == Choice("fast")
    assert choose_variant(table, 1.0, 1, state, margin=0.05, patience=1).variant == "good"


def test_slowdown_counts():
    assert choose_variant(TABLE, 0.5, 1).variant == "full"
    assert choose_variant(TABLE, 0.5, 1, slowdown=2.0).variant == "half"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": 0.05}, "out of reach for load 1: 'tiny', the fastest, takes 0.1 s"),
        ({"table": {}}, "table is empty"),
        ({"state": Choice("hlaf")}, "unknown name 'hlaf'; did you mean 'half'"),
        ({"target": 0.0}, "target is 0.0"),
        ({"load": 0}, "load is 0"),
        ({"slowdown": 0.0}, "slowdown is 0.0"),
        ({"margin": 1.0}, "margin is 1.0"),
        ({"patience": 0}, "patience is 0"),
    ],
)
def test_bad_input(changed, message):
    with pytest.raises(ValueError, match=message):
        choose_variant(**{"table": TABLE, "target": 1.0, "load": 1, **changed})


@pytest.mark.parametrize("seconds", [{}, {0: 1.0}, {1: 0.0}, {1: float("nan")}])
def test_what_was_not_measured_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds"):
        Variant(0.9, seconds)

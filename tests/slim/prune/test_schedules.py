import numpy as np
import pytest

from slim.prune import Window, cosine, cubic, one_shot, periodic, progressive


def test_cubic_is_zhu_and_guptas():
    begin, end, every, final_sparsity = 100, 1100, 50, 0.8
    schedule = cubic(1 - final_sparsity, Window(begin, end, every))
    n = (end - begin) // every
    for k in range(n + 1):
        t = begin + k * every
        sparsity = final_sparsity + (0 - final_sparsity) * (1 - (t - begin) / (n * every)) ** 3
        np.testing.assert_allclose(schedule.keep(t), 1 - sparsity, atol=1e-6)
        assert schedule.due(t)
        assert not schedule.due(t + 1)
    assert schedule.keep(0) == 1
    np.testing.assert_allclose(schedule.keep(5000), 0.2, rtol=1e-6)


def test_cosine_is_halfway_in_the_middle():
    schedule = cosine(0.2, Window(0, 100, 10))
    np.testing.assert_allclose(schedule.keep(50), 0.6, rtol=1e-6)


def test_one_shot_is_due_once():
    schedule = one_shot(0.3, Window(begin=5))
    assert [bool(schedule.due(t)) for t in range(8)] == [t == 5 for t in range(8)]
    assert [float(schedule.keep(t)) < 1 for t in range(8)] == [t >= 5 for t in range(8)]


def test_periodic_is_due_through_the_window_at_one_ratio():
    schedule = periodic(0.5, Window(4, 10, 3))
    assert [t for t in range(14) if schedule.due(t)] == [4, 7, 10]
    assert {float(schedule.keep(t)) for t in range(4, 14)} == {0.5}


def test_the_end_is_due_even_between_intervals():
    assert [t for t in range(14) if Window(0, 10, 4).due(t)] == [0, 4, 8, 10]


def test_progressive_falls_five_points_a_round():
    schedule = progressive(0.35, Window(begin=10, end=200, every=10))
    rounds = [float(schedule.keep(10 + 10 * r)) for r in range(13)]
    np.testing.assert_allclose(rounds, [*np.arange(0.9, 0.349, -0.05), 0.35], atol=1e-6)
    assert float(schedule.keep(9)) == 1
    assert [t for t in range(300) if schedule.due(t)] == list(range(10, 121, 10))


def test_progressive_in_too_short_a_window_is_refused():
    with pytest.raises(ValueError, match="end must be at least 11"):
        progressive(0.35, Window(0, 10, 1))


@pytest.mark.parametrize("window", [Window(-1, 5), Window(6, 5), Window(0, 5, 0)])
def test_bad_windows_are_refused(window):
    with pytest.raises(ValueError, match="window"):
        cubic(0.5, window)

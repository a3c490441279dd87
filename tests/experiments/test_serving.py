"""One server, its policies, and arrivals; on a clock of the test's own."""

import numpy as np
import pytest

from experiments.serving import Adaptive, Always, arrivals, latencies, serve
from slim.dynamic import Choice, Variant

TABLE = {"full": Variant(0.9, {1: 1.0, 4: 2.0}), "half": Variant(0.8, {1: 0.5, 4: 1.0})}


class Machine:
    """Time passes where something is computed or slept for."""

    def __init__(self, slower=1.0):
        self.now, self.slower, self.ran = 100.0, slower, []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds

    def run(self, variant, first, count):
        self.ran.append((variant, first, count))
        self.now += self.slower * TABLE[variant].expected(count)


def served(times, policy, target=4.0, slower=1.0):
    machine = Machine(slower)
    calls = serve(
        np.asarray(times, float), machine.run, TABLE, target, policy, most=4,
        clock=machine.clock, sleep=machine.sleep,
    )  # fmt: skip
    assert [call[:3] for call in calls] == machine.ran
    return calls


def test_what_waits_is_taken_together_and_latency_is_from_arrival():
    times = [1.0, 1.5, 1.75, 9.0]
    calls = served(times, Always("full"))
    assert [call[:] for call in calls] == [
        ("full", 0, 1, 1.0, 2.0),
        ("full", 1, 2, 2.0, 4.0),
        ("full", 3, 1, 9.0, 10.0),
    ]
    assert latencies(np.asarray(times), calls).tolist() == [1.0, 2.5, 2.25, 1.0]


def test_a_call_has_no_more_than_its_most():
    assert [call.examples for call in served([0.0] * 9, Always("half"))] == [4, 4, 1]


def test_the_load_and_what_the_oldest_has_left_decide():
    policy = Adaptive(TABLE, margin=0.0, patience=1)
    assert policy(Choice(), 2.0, 4, 1.0).variant == "full"
    assert policy(Choice(), 1.9, 4, 1.0).variant == "half"
    assert policy(Choice(), 2.0, 5, 1.0).variant == "half"
    assert policy(Choice(), 2.0, 4, 1.5).variant == "half"
    assert policy(Choice(), -1.0, 4, 1.0).variant == "half"


def test_a_burst_is_served_by_the_narrow_and_calm_by_the_wide():
    times = [0.0, *[5.0] * 11, 20.0]
    calls = served(times, Adaptive(TABLE, margin=0.0, patience=1))
    assert [call.variant for call in calls] == ["full", "half", "half", "full", "full"]
    assert (latencies(np.asarray(times), calls) <= 4).all()
    wide = served(times, Always("full"))
    assert not (latencies(np.asarray(times), wide) <= 4).all()


def test_a_machine_slower_than_when_it_was_measured_is_noticed():
    times = [0.0, 10.0, 20.0]
    policy = Adaptive(TABLE, margin=0.0, patience=1)
    assert [call.variant for call in served(times, policy, target=1.5)] == ["full"] * 3
    slow = served(times, policy, target=1.5, slower=2.0)
    assert [call.variant for call in slow] == ["full", "half", "half"]


def test_arrivals_come_at_the_rates_of_their_phases():
    times = arrivals([500.0, 2000.0], 2.0, seed=0)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 4
    assert (times < 2).sum() == pytest.approx(1000, rel=0.1)
    assert (times >= 2).sum() == pytest.approx(4000, rel=0.1)
    np.testing.assert_array_equal(times, arrivals([500.0, 2000.0], 2.0, seed=0))

"""Timing in turn, against a clock that the calls themselves move."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import timing
from experiments.timing import Latency, clocked_in_turn, in_turn


class Clock:
    """A clock that stands still but for what calls add to it."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.log: list[str] = []

    def __call__(self) -> int:
        return self.now_ns

    def call(self, name: str, seconds: Callable[[int], float]) -> Callable[[], None]:
        """A call that takes `seconds(n)` the n-th time."""
        count = 0

        def run() -> None:
            nonlocal count
            self.log.append(name)
            self.now_ns += round(seconds(count) * 1e9)
            count += 1

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter_ns", clock)
    return clock


def test_calls_are_timed_in_turn_after_warmup(clock):
    calls = {"a": clock.call("a", lambda n: 0.010), "b": clock.call("b", lambda n: 0.004)}
    times = in_turn(calls, warmup=2, rounds=3)
    assert clock.log == [*"aabb", *"ab", *"ababab"]  # warm-up, choice of repeats, rounds
    assert times == {"a": Latency((0.010,) * 3, 1), "b": Latency((0.004,) * 3, 1)}


def test_warmup_does_not_count(clock):
    slow_first = clock.call("a", lambda n: 5.0 if n == 0 else 0.002)
    assert in_turn({"a": slow_first}, warmup=1, rounds=4)["a"].samples_s == (0.002,) * 4


@pytest.mark.parametrize(("seconds", "repeats"), [(1e-5, 100), (3e-4, 4), (1e-3, 1), (0.5, 1)])
def test_short_calls_are_repeated_up_to_a_millisecond(clock, seconds, repeats):
    latency = in_turn({"a": clock.call("a", lambda n: seconds)}, rounds=2)["a"]
    assert latency.repeats == repeats
    np.testing.assert_allclose(latency.samples_s, seconds)


def test_rounds_go_on_until_min_seconds(clock):
    latency = in_turn({"a": clock.call("a", lambda n: 0.25)}, rounds=2, min_seconds=1.0)["a"]
    assert len(latency.samples_s) == 4


def test_drift_cancels_in_the_ratio(clock):
    # The machine halves its speed over the rounds; b always takes twice as long as a.
    calls = {
        "a": clock.call("a", lambda n: 0.01 * (1 + n)),
        "b": clock.call("b", lambda n: 0.02 * (1 + n)),
    }
    times = in_turn(calls, rounds=9)
    assert times["b"].ratio(times["a"]) == pytest.approx(2.0)
    assert times["a"].ratio(times["a"]) == 1.0


def test_median_and_p90():
    latency = Latency(tuple(float(n) for n in range(11)), 1)
    assert (latency.median_s, latency.p90_s) == (5.0, 9.0)


def test_asynchronous_results_are_waited_for():
    fn = jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda i, y: jnp.tanh(y @ x), x))
    x = jnp.eye(200)
    results = []
    latency = in_turn({"fn": lambda: results.append(fn(x)) or results[-1]}, rounds=2)["fn"]
    assert all(result.is_ready() for result in results)
    assert latency.median_s > 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"calls": {}}, "calls is empty"),
        ({"calls": {"a": int}, "warmup": 0}, "warmup = 0 must be at least 1"),
        ({"calls": {"a": int}, "rounds": 0}, "rounds = 0 must be at least 1"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        in_turn(**kwargs)


def test_ratio_needs_the_same_rounds():
    with pytest.raises(ValueError, match="shorter"):
        Latency((1.0, 1.0), 1).ratio(Latency((1.0,), 1))


def test_calls_that_are_clocked_elsewhere_are_counted_in_turn():
    log = []

    def clock(name, seconds):
        def run(count):
            log.append((name, count))
            return seconds * count

        return run

    times = clocked_in_turn({"a": clock("a", 0.25e-3), "b": clock("b", 2e-3)}, warmup=1, rounds=2)
    assert log == [
        *[("a", 1), ("b", 1)],
        *[("a", 1), ("a", 4), ("b", 1)],
        *[("a", 4), ("b", 1)] * 2,
    ]
    assert times["a"] == Latency((0.25e-3,) * 2, 4)
    assert times["b"] == Latency((2e-3,) * 2, 1)

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.distill import SCHEDULES, check_mixture, check_temperature
from slim.distill.schedules import constant, geometric, linear

MADE = {
    name: make(4.0) if name == "constant" else make(8.0, 2.0, begin=10, end=110)
    for name, make in SCHEDULES.items()
}
CURVES = {
    "constant": lambda p: 4.0,
    "linear": lambda p: 8 - 6 * p,
    "cosine": lambda p: 5 + 3 * math.cos(math.pi * p),
    "geometric": lambda p: 8 * 0.25**p,
}
by_name = pytest.mark.parametrize("name", SCHEDULES)


@by_name
def test_values_by_step(name):
    schedule = MADE[name]
    traced = jax.jit(jax.vmap(schedule.value))
    steps = [0, 10, 11, 35, 60, 109, 110, 1000]
    values = traced(jnp.array(steps))
    expected = [CURVES[name](min(max(step - 10, 0), 100) / 100) for step in steps]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose([schedule.value(step) for step in steps], expected, rtol=1e-6)
    assert values.dtype == jnp.float32
    shape = jax.eval_shape(schedule.value, jax.ShapeDtypeStruct((), jnp.int32))
    assert (shape.shape, shape.dtype) == ((), jnp.float32)


@by_name
def test_values_stay_between_low_and_high(name):
    values = np.asarray(jax.vmap(MADE[name].value)(jnp.arange(0, 120)))
    np.testing.assert_allclose((values.min(), values.max()), MADE[name][1:], rtol=1e-6)


def test_ends_are_exact():
    schedule = linear(0.9, 0.1, begin=3, end=10)
    assert schedule.value(3) == np.float32(0.9)
    assert schedule.value(10) == np.float32(0.1)


def test_an_empty_window_is_over_as_it_begins():
    schedule = linear(8.0, 1.0, begin=5, end=5)
    assert [float(schedule.value(step)) for step in (4, 5)] == [8.0, 1.0]


def test_long_runs():
    schedule = linear(0.0, 1.0, begin=2**30, end=2**30 + 4)
    assert [float(schedule.value(2**30 + i)) for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(("begin", "end"), [(-1, 5), (6, 5)])
def test_bad_windows_are_refused(begin, end):
    with pytest.raises(ValueError, match=f"begin={begin}, end={end}: need"):
        linear(1.0, 0.0, begin=begin, end=end)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match=r"geometric from 4\.0 to 0\.0"):
        geometric(4.0, 0.0, end=10)
    with pytest.raises(ValueError, match="from nan to nan"):
        constant(math.nan)


def test_temperatures_stay_positive():
    check_temperature(linear(4.0, 0.1, end=10))
    with pytest.raises(ValueError, match=r"from 0\.0 to 4\.0"):
        check_temperature(linear(4.0, 0.0, end=10))


@pytest.mark.parametrize("ends", [(-0.1, 0.5), (0.5, 1.1)])
def test_mixtures_stay_shares(ends):
    check_mixture(linear(1.0, 0.0, end=10))
    with pytest.raises(ValueError, match=f"from {ends[0]} to {ends[1]}"):
        check_mixture(linear(*ends, end=10))

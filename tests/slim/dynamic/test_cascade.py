import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from slim.dynamic.calibration import TEMPERATURES, calibrated, fit_temperature
from slim.dynamic.cascade import (
    Rule,
    cascade_cost,
    cascade_curve,
    cascaded,
    fit_rule,
    simulate_cascade,
)
from slim.dynamic.criteria import confidence, margin
from slim.measure import classification

CLASSES = 3


def logits_and_labels(seed, count=400, noise=1.0, scale=3.0):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    rng = np.random.default_rng(seed)
    logits = scale * (np.eye(CLASSES)[labels] + noise * rng.normal(size=(count, CLASSES)))
    return logits.astype(np.float32), labels


LIGHT, LABELS = logits_and_labels(1, noise=0.9)
FULL, _ = logits_and_labels(2, noise=0.4)


def accuracy(logits):
    return float((np.asarray(logits).argmax(1) == LABELS).mean())


def test_temperature_is_the_minimum():
    def loss(inverse):
        return -log_softmax(LIGHT * inverse, axis=1)[np.arange(len(LABELS)), LABELS].mean()

    found = minimize_scalar(loss, bounds=(1e-2, 1e2), method="bounded", options={"xatol": 1e-10})
    np.testing.assert_allclose(1 / fit_temperature(LIGHT, LABELS), found.x, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_temperature_follows_the_logits_scale(factor):
    temperatures = [fit_temperature(each, LABELS) for each in (LIGHT, factor * LIGHT)]
    np.testing.assert_allclose(temperatures[1] / temperatures[0], factor, rtol=1e-6)


def test_temperature_at_the_ends_of_its_range():
    right = 4 * np.eye(CLASSES)[LABELS]
    assert fit_temperature(right, LABELS) == TEMPERATURES[0]
    assert fit_temperature(-right, LABELS) == TEMPERATURES[1]


def test_calibration_error_falls():
    def error(logits):
        ones = jnp.ones(len(LABELS))
        acc = classification.update(classification.init(CLASSES), logits, LABELS, ones)
        return float(classification.result(acc).ece)

    assert error(calibrated(LIGHT, fit_temperature(LIGHT, LABELS))) < error(LIGHT) / 2


def test_curve_is_what_every_threshold_gives():
    scores = np.round(np.asarray(confidence(LIGHT)), 1)  # with equal ones
    right = [logits.argmax(1) == LABELS for logits in (LIGHT, FULL)]
    found = cascade_curve(scores, *right)
    assert len(found.threshold) == len(np.unique(scores)) + 1
    for threshold, deferred, got in zip(*found, strict=True):
        asked = ~(scores >= threshold)
        assert deferred == asked.mean()
        np.testing.assert_allclose(got, np.where(asked, right[1], right[0]).mean())
    assert found.accuracy[-1] == pytest.approx(accuracy(FULL))
    assert found.deferred[-1] == 1


@pytest.mark.parametrize("score", [confidence, margin])
@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.05, 1.0])
def test_rule_defers_fewest_within_the_tolerance(score, tolerance):
    rule = fit_rule(LIGHT, FULL, LABELS, tolerance=tolerance, score=score)
    answer = simulate_cascade(rule, LIGHT, FULL, score=score)
    scores = score(calibrated(LIGHT, rule.temperature))
    every = cascade_curve(scores, *(logits.argmax(1) == LABELS for logits in (LIGHT, FULL)))
    allowed = every.accuracy >= accuracy(FULL) - tolerance - 1e-9
    assert accuracy(answer.logits) >= accuracy(FULL) - tolerance - 1e-9
    np.testing.assert_allclose(answer.deferred.mean(), every.deferred[allowed].min(), rtol=1e-6)


def test_logits_that_are_not_finite_are_deferred():
    logits = np.array([[np.nan, 1.0], [9.0, 0.0]])
    assert simulate_cascade(Rule(0.6), logits, logits).deferred.tolist() == [True, False]


@pytest.fixture(scope="module")
def runner():
    """A cascade of two linear networks, and how often the full one was compiled."""
    traced = []

    def full(params, inputs):
        traced.append(inputs["x"].shape[0])
        return inputs["x"] @ params

    run = cascaded(lambda params, inputs: inputs["x"] @ params, full, sizes=(2, 4))
    return run, traced


def test_cascade_answers_as_simulated(runner):
    run, traced = runner
    rng = np.random.default_rng(3)
    light, full = (rng.normal(size=(4, CLASSES)).astype(np.float32) for _ in range(2))
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
        for threshold in (0.0, 0.5, 0.7, np.inf):
            rule = Rule(threshold, 1.3)
            answer = run(rule, light, full, {"x": x})
            expected = simulate_cascade(rule, x @ light, x @ full)
            np.testing.assert_array_equal(answer.deferred, expected.deferred)
            np.testing.assert_allclose(answer.logits, expected.logits, rtol=1e-5, atol=1e-6)
    # Two programs, whoever is unsure.
    assert sorted(traced) == [2, 4]


def test_cost():
    assert cascade_cost(jnp.array([True, False, False, False]), light=1.0, full=8.0) == 3.0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: fit_temperature(LIGHT, LABELS[:3]), r"labels \(3,\)"),
        (lambda: fit_temperature(LIGHT, LABELS + 1), "labels are from 1 to 3, must be from 0 to 2"),
        (lambda: fit_temperature(LIGHT * np.nan, LABELS), "must be finite"),
        (lambda: fit_rule(LIGHT, FULL[:9], LABELS, tolerance=0.1), r"full \(9, 3\)"),
        (lambda: fit_rule(LIGHT, FULL, LABELS, tolerance=-1), "tolerance = -1"),
        (lambda: cascade_curve(np.ones(3), np.ones(3), np.ones(2)), r"full_right \(2,\)"),
        (lambda: cascaded(jax.nn.relu, jax.nn.relu, sizes=()), r"sizes is \(\)"),
        (lambda: cascaded(jax.nn.relu, jax.nn.relu, sizes=(0, 2)), r"sizes is \(0, 2\)"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()

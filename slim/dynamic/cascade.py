"""The dual model: a light network answers, and a full one where the light one is unsure.

    rule = fit_rule(light_logits, full_logits, labels, tolerance=0.008)   on held-out examples
    answer = simulate_cascade(rule, light_logits, full_logits)            what it would do
    run = cascaded(light, full, sizes=(8, 16, 32))
    answer = run(rule, light_params, full_params, *inputs)                and does

Confidence cascades: Viola and Jones 2001, "Rapid object detection using a boosted cascade"; of
networks and calibrated, Wang et al. 2018, "IDK cascades", arXiv:1706.00885.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.dynamic.calibration import calibrated, fit_temperature
from slim.dynamic.criteria import confidence
from slim.dynamic.packing import check_sizes, packed, packs
from slim.dynamic.thresholds import fit_thresholds

PyTree = Any
Array = jax.Array | np.ndarray
Score = Callable[[jax.Array], jax.Array]
"""Logits `(batch, classes)` -> how sure they are, `(batch,)`: that of a `Criterion`, say."""


class Rule(NamedTuple):
    """When the light network's answer stands; a pytree, so that another one compiles nothing.

    Attributes:
        threshold: the least score, of calibrated logits, that is sure enough.
        temperature: what calibrates the light network's logits.
    """

    threshold: jax.Array | float
    temperature: jax.Array | float = 1.0


class Answer(NamedTuple):
    """What a cascade says.

    Attributes:
        logits: `(batch, classes)`; the full network's where it was asked.
        deferred: whether it was, bool `(batch,)`.
    """

    logits: jax.Array
    deferred: jax.Array


class Curve(NamedTuple):
    """What every threshold comes to; all `(thresholds,)`, from deferring none to deferring all.

    Attributes:
        threshold: the least score that is sure enough, ascending.
        deferred: share of the examples that the full network is asked for.
        accuracy: of the cascade.
    """

    threshold: np.ndarray
    deferred: np.ndarray
    accuracy: np.ndarray


def fit_rule(
    light: Array, full: Array, labels: Array, *, tolerance: float, score: Score = confidence
) -> Rule:
    """The rule that defers fewest held-out examples and loses no more than `tolerance`.

    Args:
        light: the light network's logits, `(examples, classes)`.
        full: the full network's.
        labels: `(examples,)`.
        tolerance: the accuracy that may be lost to the full network's, 0.01 for a point.
        score: what is compared with the threshold.

    Raises:
        ValueError: shapes that do not fit, a tolerance outside [0, 1].

    >>> light, labels = np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    >>> full = np.array([[5.0, 0.0], [0.0, 5.0]])
    >>> rule = fit_rule(light, full, labels, tolerance=0)
    >>> simulate_cascade(rule, light, full).deferred.tolist()
    [False, True]
    """
    _check(light, full, labels)
    temperature = fit_temperature(light, labels)
    right = np.stack(
        [np.asarray(logits).argmax(1) == np.asarray(labels) for logits in (light, full)]
    )
    scores = score(calibrated(light, temperature))
    return Rule(float(fit_thresholds(scores[None], jnp.asarray(right), tolerance)[0]), temperature)


def cascade_curve(scores: Array, light_right: Array, full_right: Array) -> Curve:
    """Accuracy against the share deferred, at every threshold that makes a difference.

    Args:
        scores: of the light network, `(examples,)`.
        light_right: whether it is right, `(examples,)`.
        full_right: whether the full one is.

    >>> found = cascade_curve(np.array([0.6, 0.9]), np.array([0, 1]), np.array([1, 1]))
    >>> found.deferred.tolist(), found.accuracy.tolist()
    ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0])
    """
    values = np.asarray(scores)
    light, full = (np.asarray(each, np.float64) for each in (light_right, full_right))
    if values.ndim != 1 or not values.size or not values.shape == light.shape == full.shape:
        raise ValueError(
            f"scores {values.shape}, light_right {light.shape}, full_right {full.shape}: all must "
            "be (examples,), with at least one"
        )
    order = np.argsort(values, kind="stable")
    gained = np.concatenate([[0], np.cumsum((full - light)[order])])
    ordered = values[order]
    # Equal scores are deferred together.
    count = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1, [len(ordered)]])
    threshold = np.append(ordered[count[:-1]], np.inf)
    return Curve(threshold, count / len(values), (light.sum() + gained[count]) / len(values))


def cascade_cost(deferred: Array, light: float, full: float) -> float:
    """Mean cost of an example: light + share deferred * full, MACs or seconds.

    >>> cascade_cost(np.array([True, False]), light=1.0, full=4.0)
    3.0
    """
    return light + float(np.mean(np.asarray(deferred))) * full


def defers(rule: Rule, logits: Array, *, score: Score = confidence) -> jax.Array:
    """Which of the light network's answers are not sure enough, or not finite: bool `(batch,)`."""
    return ~(score(calibrated(logits, rule.temperature)) >= rule.threshold)


def simulate_cascade(rule: Rule, light: Array, full: Array, *, score: Score = confidence) -> Answer:
    """What the cascade says, from the logits of both networks for all examples."""
    deferred = defers(rule, light, score=score)
    return Answer(jnp.where(deferred[:, None], jnp.asarray(full), jnp.asarray(light)), deferred)


def cascaded(
    light: Callable[..., jax.Array],
    full: Callable[..., jax.Array],
    *,
    sizes: Sequence[int],
    score: Score = confidence,
) -> Callable[..., Answer]:
    """`run(rule, light_params, full_params, *inputs) -> Answer`, with time saved.

    The light network runs on the whole batch. Who is unsure is read, packed into a static size, and
    run by the full network, compiled once for each size (and shape of the inputs) that occurs. Not
    to be traced: how much is computed depends on the values.

    Args:
        light: `light(params, *inputs) -> logits (batch, classes)`; inputs have the batch first.
        full: the same.
        sizes: of the packs. More of them: less padding, more programs.
        score: what is compared with the rule's threshold.

    Raises:
        ValueError: no sizes, or one below 1.
    """
    check_sizes(sizes)
    second = jax.jit(packed(full))

    @jax.jit
    def first(rule: Rule, params: PyTree, *inputs: PyTree) -> Answer:
        logits = light(params, *inputs)
        return Answer(logits, defers(rule, logits, score=score))

    def run(rule: Rule, light_params: PyTree, full_params: PyTree, *inputs: PyTree) -> Answer:
        logits, deferred = first(rule, light_params, *inputs)
        for rows in packs(np.asarray(deferred), sizes):
            logits = second(full_params, logits, rows, *inputs)
        return Answer(logits, deferred)

    return run


def _check(light: Array, full: Array, labels: Array) -> None:
    if np.ndim(light) != 2 or np.shape(light) != np.shape(full) or len(light) != len(labels):
        raise ValueError(
            f"light {np.shape(light)}, full {np.shape(full)}, labels {np.shape(labels)}: must be "
            "(examples, classes) twice and (examples,)"
        )

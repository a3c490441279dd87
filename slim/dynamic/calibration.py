"""Confidence that means what it says: temperature scaling (Guo et al. 2017, arXiv:1706.04599).

How far it does, the expected calibration error, is `slim.measure.classification`'s.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

TEMPERATURES = (0.01, 100.0)
"""The least and the greatest temperature."""


def fit_temperature(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> float:
    """The temperature T at which held-out logits have the least cross-entropy.

        min over T in TEMPERATURES of mean -log softmax(z / T)[label]

    Convex in 1 / T, with the derivative mean (E_softmax(z / T)[z] - z[label]), whose root is found
    to float64's precision. At an end of the range where there is no root: every example right, or
    no better than guessing.

    Args:
        logits: `(examples, classes)`, held out from training.
        labels: `(examples,)`, integers in [0, classes).

    Raises:
        ValueError: shapes that do not fit, labels outside the classes, logits not finite.

    >>> logits = np.array([[4.0, 0.0]] * 4)          # says 0.98, is right three times of four
    >>> temperature = fit_temperature(logits, np.array([0, 0, 0, 1]))
    >>> round(float(jax.nn.softmax(calibrated(logits, temperature)).max()), 4)
    0.75
    """
    scores, truth = np.array(logits, np.float64), np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not scores.size:
        raise ValueError(
            f"logits {scores.shape}, labels {truth.shape}: must be (examples, classes) and "
            "(examples,), with at least one example"
        )
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(
            f"labels are from {truth.min()} to {truth.max()}, must be from 0 to "
            f"{scores.shape[1] - 1}: the logits are of other classes"
        )
    if not np.isfinite(scores).all():
        raise ValueError("logits must be finite: leave out the examples whose logits are not")
    own = scores[np.arange(len(truth)), truth].mean()

    def slope(inverse: float) -> float:
        return float((softmax(inverse * scores, axis=1) * scores).sum(axis=1).mean() - own)

    low, high = (1 / end for end in reversed(TEMPERATURES))
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    return 1 / float(brentq(slope, low, high, xtol=1e-14))


def calibrated(logits: jax.Array | np.ndarray, temperature: jax.Array | float) -> jax.Array:
    """The logits z / T, float32; their predictions are those of z."""
    return jnp.asarray(logits, jnp.float32) / jnp.asarray(temperature, jnp.float32)

"""Learned thresholds: one for each exit, such that early exit loses no more than is tolerated."""

import jax
import jax.numpy as jnp


def fit_thresholds(scores: jax.Array, correct: jax.Array, tolerance: float) -> jax.Array:
    """The least threshold for each exit that keeps the accuracy on held-out examples.

    Exit by exit, from the first: of the examples that are still there, sorted by score, as many
    leave as the budget of errors allows, the largest number that it does; the tolerated errors
    not yet spent are shared evenly among the exits to come. An error is an example that the last
    exit has right and this one has not; one the other way round gives an error back. So of n
    examples at most `tolerance` n are lost in all: exact, by sorting, for every exit given those
    before it.

    Args:
        scores: `(exits, n)`, how sure each exit but the last is: `CRITERIA[...].score`.
        correct: bool `(exits + 1, n)`, whether each exit is right, with the last.
        tolerance: the share of examples that may be lost, 0.01 for a point of accuracy.

    Returns:
        Thresholds `(exits + 1,)` float32, infinite where nobody may leave; the last is -infinite.

    Raises:
        ValueError: shapes that do not fit; a tolerance outside [0, 1].

    >>> import numpy as np
    >>> correct = np.array([[True, True, False, False], [True] * 4])
    >>> fit_thresholds(np.array([[0.9, 0.8, 0.7, 0.6]]), correct, 0.25).round(2).tolist()
    [0.699999988079071, -inf]
    """
    scores, correct = jnp.asarray(scores, jnp.float32), jnp.asarray(correct, bool)
    if correct.shape != (scores.shape[0] + 1, *scores.shape[1:]) or scores.ndim != 2:
        raise ValueError(
            f"scores {scores.shape} and correct {correct.shape}: need (exits, n) and (exits + 1, n)"
        )
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance = {tolerance} must be in [0, 1], a share of the examples")
    exits, count = scores.shape
    # Whole examples: float32 sums of them are exact.
    left = jnp.floor(jnp.float32(tolerance) * count + 1e-3).astype(jnp.int32)
    lost = correct[-1].astype(jnp.int32) - correct[:-1].astype(jnp.int32)
    here, thresholds = jnp.ones(count, bool), []
    for i in range(exits):
        order = jnp.argsort(jnp.where(here, -scores[i], jnp.inf))
        sorted_scores, sorted_here = scores[i][order], here[order]
        spent = jnp.cumsum(jnp.where(sorted_here, lost[i][order], 0))
        # A threshold parts unequal scores only.
        following = jnp.append(sorted_scores[1:], -jnp.inf)
        ends = jnp.append(~sorted_here[1:], True) | (following < sorted_scores)
        allowed = sorted_here & ends & (spent <= left // (exits - i))
        threshold = jnp.min(jnp.where(allowed, sorted_scores, jnp.inf))
        leaves = here & (scores[i] >= threshold)
        left -= jnp.where(leaves, lost[i], 0).sum()
        here &= ~leaves
        thresholds.append(threshold)
    return jnp.stack([*thresholds, -jnp.inf])

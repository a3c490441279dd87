"""Loss, accuracy, F1 and calibration of a classifier, accumulated batch by batch.

An accumulator is a pytree of sums: adding two of them leaf by leaf, or summing over shards, is the
accumulator of all their samples. Counts are float32, exact up to 2**24 samples a cell.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

BINS = 15  # Guo et al., arXiv:1706.04599, section 2 and the captions of its tables


class Confusion(NamedTuple):
    """Sums over samples, each counted by its weight.

    Attributes:
        loss: cross-entropies; shape ().
        counts: samples by (truth, prediction); shape (classes, classes).
        confidence: probability given to the prediction, by confidence bin; shape (bins,).
        correct: right predictions, by confidence bin; shape (bins,).
    """

    loss: jax.Array
    counts: jax.Array
    confidence: jax.Array
    correct: jax.Array


class Scores(NamedTuple):
    """What `result` reads from a `Confusion`; all shape (), all NaN when no sample counted.

    Attributes:
        loss: mean cross-entropy in nats.
        top1: share of right predictions, 0 to 1.
        macro_f1: mean of 2 TP / (2 TP + FP + FN) over the classes that occur among truths or
            predictions; a class absent from both is left out, as scikit-learn's
            `f1_score(average="macro")` does and as its `zero_division=nan` would.
        ece: expected calibration error, 0 to 1: sum_b n_b/n |accuracy_b - confidence_b| over 15
            bins (0, 1/15], (1/15, 2/15] ... of equal width (Guo et al., arXiv:1706.04599, eq. 3).
    """

    loss: jax.Array
    top1: jax.Array
    macro_f1: jax.Array
    ece: jax.Array


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label] in nats and float32, without label smoothing.

    Args:
        logits: `(..., classes)`.
        labels: `(...)`, integers in [0, classes).

    Returns:
        Of the labels' shape.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1)[..., 0]


def init(num_classes: int) -> Confusion:
    """The accumulator of no samples."""
    return Confusion(
        loss=jnp.zeros(()),
        counts=jnp.zeros((num_classes, num_classes)),
        confidence=jnp.zeros(BINS),
        correct=jnp.zeros(BINS),
    )


def update(acc: Confusion, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Confusion:
    """Adds a batch.

    Args:
        acc: the sums so far.
        logits: `(batch, classes)`, any float type; scores are computed in float32.
        labels: `(batch,)`, integers in [0, classes).
        weights: `(batch,)`, float32: 1 counts a row, 0 ignores it, whatever stands in it.
    """
    counted = weights > 0
    loss = jnp.where(counted, cross_entropy(logits, labels), 0)
    prediction = jnp.argmax(logits, axis=1)
    top = jax.nn.softmax(logits.astype(jnp.float32)).max(axis=1)
    top = jnp.where(counted, top, 0)
    in_bin = jnp.clip(jnp.ceil(top * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    right = (prediction == labels).astype(jnp.float32)
    return Confusion(
        loss=acc.loss + jnp.sum(weights * loss),
        counts=acc.counts.at[labels, prediction].add(weights),
        confidence=acc.confidence.at[in_bin].add(weights * top),
        correct=acc.correct.at[in_bin].add(weights * right),
    )


def agreeing(logits: jax.Array, reference: jax.Array, weights: jax.Array) -> jax.Array:
    """The weight of the rows whose largest logit is of the class that the reference's is of.

    Args:
        logits: `(batch, ..., classes)`.
        reference: another model's, of the same shape.
        weights: `(batch,)`, float32, as in `update`.

    Returns:
        Shape (), float32.

    >>> ours, theirs = jnp.array([[2.0, 1], [0, 3]]), jnp.array([[0.0, 1], [0, 1]])
    >>> float(agreeing(ours, theirs, jnp.ones(2)))
    1.0
    """
    same = jnp.argmax(logits, axis=-1) == jnp.argmax(reference, axis=-1)
    weights = weights.reshape(weights.shape + (1,) * (same.ndim - 1))
    return jnp.sum(jnp.where(same, weights, 0))


def result(acc: Confusion) -> Scores:
    """The scores of everything accumulated.

    >>> acc = update(init(2), jnp.array([[9.0, 0], [0, 9]]), jnp.array([0, 0]), jnp.ones(2))
    >>> float(result(acc).top1)
    0.5
    """
    samples = acc.counts.sum()
    hits = jnp.diagonal(acc.counts)
    # TP + FN and TP + FP, so the sum is F1's denominator; 0 exactly where a class is absent.
    occurrences = acc.counts.sum(axis=1) + acc.counts.sum(axis=0)
    f1 = jnp.where(occurrences > 0, 2 * hits / jnp.maximum(occurrences, 1e-30), 0)
    return Scores(
        loss=acc.loss / samples,
        top1=hits.sum() / samples,
        macro_f1=f1.sum() / jnp.sum(occurrences > 0).astype(jnp.float32),
        ece=jnp.abs(acc.correct - acc.confidence).sum() / samples,
    )

"""Scores against scikit-learn, exactly, and the algebra of accumulators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, f1_score, log_loss

from slim.measure import classification
from slim.measure.classification import BINS, Scores

CLASSES = 7


def data(seed: int, size: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right about half the time, at all levels of confidence."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    logits = rng.normal(size=(size, classes)) * rng.uniform(0, 4, (size, 1))
    logits[np.arange(size), labels] += rng.uniform(0, 3, size)
    return logits.astype(np.float32), labels.astype(np.int32)


def accumulate(logits, labels, weights=None, batch=50, classes=CLASSES):
    weights = np.ones(len(labels), np.float32) if weights is None else weights
    acc = classification.init(classes)
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        acc = jax.jit(classification.update)(acc, logits[part], labels[part], weights[part])
    return acc


def by_sklearn(logits, labels) -> Scores:
    probability = np.asarray(jax.nn.softmax(logits.astype(np.float64)), np.float64)
    prediction, confidence = logits.argmax(1), probability.max(1)
    right = prediction == labels
    accuracies, confidences = calibration_curve(right, confidence, n_bins=BINS)
    share, _ = np.histogram(confidence, bins=BINS, range=(0, 1))
    share = share[share > 0] / len(labels)
    probability /= probability.sum(1, keepdims=True)
    return Scores(
        loss=log_loss(labels, probability, labels=range(logits.shape[1])),
        top1=accuracy_score(labels, prediction),
        macro_f1=f1_score(labels, prediction, average="macro"),
        ece=np.sum(share * np.abs(accuracies - confidences)),
    )


def assert_scores(actual: Scores, expected: Scores) -> None:
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(actual, name), value, rtol=2e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_scikit_learns(seed):
    logits, labels = data(seed, 700)
    assert_scores(classification.result(accumulate(logits, labels)), by_sklearn(logits, labels))


@pytest.mark.parametrize(
    ("classes", "kept"), [(9, range(7)), (9, (2, 5)), (4, (0, 1, 2, 3)), (3, (1,))]
)
def test_classes_absent_from_truth_and_prediction_are_left_out_of_f1(classes, kept):
    logits, labels = data(1, 300, classes)
    absent = [index for index in range(classes) if index not in kept]
    logits[:, absent] -= 50
    rows = np.isin(labels, kept)
    logits, labels = logits[rows], labels[rows]
    scores = classification.result(accumulate(logits, labels, classes=classes))
    expected = f1_score(
        labels,
        logits.argmax(1),
        average="macro",
        labels=list(range(classes)),
        zero_division=np.nan,
    )
    np.testing.assert_allclose(scores.macro_f1, expected, rtol=2e-6)


def test_a_class_never_predicted_counts_as_zero_f1():
    logits = np.array([[5.0, 0, 0], [5, 0, 0]], np.float32)
    scores = classification.result(accumulate(logits, np.array([0, 1], np.int32), classes=3))
    np.testing.assert_allclose(scores.macro_f1, (2 / 3 + 0) / 2, rtol=1e-6)


def test_rows_of_weight_zero_change_nothing_whatever_they_hold():
    logits, labels = data(2, 100)
    padded_logits = np.concatenate([logits, np.full((20, CLASSES), np.nan, np.float32)])
    padded_labels = np.concatenate([labels, np.full(20, -1, np.int32)])
    weights = np.concatenate([np.ones(100, np.float32), np.zeros(20, np.float32)])
    whole = classification.result(accumulate(logits, labels, batch=120))
    padded = classification.result(accumulate(padded_logits, padded_labels, weights, batch=120))
    assert_scores(padded, whole)


def test_sum_over_shards_is_the_whole():
    logits, labels = data(3, 400)
    shards = [accumulate(logits[i::4], labels[i::4]) for i in range(4)]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *shards)
    whole = accumulate(logits, labels)
    np.testing.assert_array_equal(summed.counts, whole.counts)
    np.testing.assert_array_equal(summed.correct, whole.correct)
    assert_scores(classification.result(summed), classification.result(whole))


def test_a_batch_sharded_over_devices_gives_the_same():
    logits, labels = data(4, 64)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    put = lambda x: jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))  # noqa: E731
    acc = jax.jit(classification.update)(
        classification.init(CLASSES), put(logits), put(labels), put(np.ones(64, np.float32))
    )
    assert_scores(classification.result(acc), by_sklearn(logits, labels))


@pytest.mark.parametrize(
    ("confidence", "bin_index"), [(0.2, 2), (0.21, 3), (0.999, 14), (1.0, 14), (1 / 3 + 1e-3, 5)]
)
def test_bins_are_closed_above(confidence, bin_index):
    # Two classes cannot fall below 1/2; spread the rest over many.
    rest = (1 - confidence) / 29
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([[confidence] + [rest] * 29], np.float32))
    acc = accumulate(logits, np.array([0], np.int32), classes=30)
    assert np.flatnonzero(acc.correct).tolist() == [bin_index]


def test_extreme_logits_keep_the_loss_finite():
    logits = np.array([[1e4, -1e4]], np.float32)
    scores = classification.result(accumulate(logits, np.array([1], np.int32), classes=2))
    assert float(scores.loss) == 2e4
    assert float(scores.ece) == 1.0


def test_bfloat16_logits_are_scored_in_float32():
    logits, labels = data(5, 60)
    half = jnp.asarray(logits, jnp.bfloat16)
    acc = accumulate(half, labels, batch=60)
    assert all(leaf.dtype == jnp.float32 for leaf in acc)
    assert_scores(classification.result(acc), by_sklearn(np.asarray(half, np.float32), labels))


def test_no_samples_is_nan():
    assert all(np.isnan(classification.result(classification.init(3))))


def test_agreement_counts_the_weights_of_rows_with_the_same_largest_logit():
    logits = jnp.array([[3.0, 1, 2], [0, 5, 1], [2, 1, 0], [0, 0, 9]])
    reference = jnp.array([[1.0, 0, 0], [0, 0, 1], [9, 0, 0], [0, 0, 1]])  # the second differs
    weights = jnp.array([1.0, 1, 0.5, 0])
    assert float(jax.jit(classification.agreeing)(logits, reference, weights)) == 1.5
    logits = logits.at[3].set(jnp.nan)  # whatever stands in a row that only pads
    assert float(classification.agreeing(logits, reference, weights)) == 1.5

import jax
import numpy as np
import pytest

from slim.distill import LOSSES
from tests.slim.distill.losses import references

NAMES = ["attention_mse", "attention_kl"]
VALUES = {name: jax.jit(LOSSES[name].value) for name in NAMES}
by_name = pytest.mark.parametrize("name", NAMES)


def probabilities(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return references.softmax(rng.normal(size=(2, *shape))).astype(np.float32)


@by_name
def test_against_numpy(name):
    student, teacher = probabilities(3, 2, 4, 5)
    expected = getattr(references, name)(student, teacher)
    np.testing.assert_allclose(VALUES[name](student, teacher), expected, rtol=1e-5)


@by_name
def test_padded_batches_are_their_sentences(name):
    """A head's rows are as many as the sentence is long, and a pair counts as any other."""
    lengths = [5, 2]
    weights = [length**2 if name == "attention_mse" else length for length in lengths]
    student, teacher = np.random.default_rng(0).normal(size=(2, 2, 3, 5, 5)).astype(np.float32)
    mask = np.array(lengths)[:, None] > np.arange(5)
    alone = []
    for i, length in enumerate(lengths):
        for x in (student, teacher):
            x[i, :, length:], x[i, :, :, length:] = np.nan, 0
            x[i, :, :length, :length] = references.softmax(x[i, :, :length, :length])
        pair = [x[i : i + 1, :, :length, :length] for x in (student, teacher)]
        alone.append(getattr(references, name)(*pair))
    expected = np.average(alone, weights=weights)
    np.testing.assert_allclose(VALUES[name](student, teacher, mask=mask), expected, rtol=1e-5)


def test_a_causal_mask():
    student, teacher = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 4)).astype(np.float32)
    causal = np.broadcast_to(np.tril(np.ones((4, 4), bool)), (2, 4, 4))
    expected = np.square(student - teacher)[:, :, np.tril(np.ones((4, 4), bool))].mean()
    student, teacher = (np.where(causal[:, None], x, -np.inf) for x in (student, teacher))
    loss = VALUES["attention_mse"](student, teacher, mask=causal)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    student, teacher = (references.softmax(x).astype(np.float32) for x in (student, teacher))
    expected = references.attention_kl(student, teacher)
    for mask in (causal, None):
        loss = VALUES["attention_kl"](student, teacher, mask=mask)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


@by_name
def test_heads_that_differ_are_averaged(name):
    student, teacher = probabilities(3, 4, 5, 5)
    average = [x.mean(axis=1, keepdims=True) for x in (student[:, :2], teacher)]
    expected = getattr(references, name)(*average)
    np.testing.assert_allclose(VALUES[name](student[:, :2], teacher), expected, rtol=1e-5)


def test_kl_where_probabilities_underflow():
    student, teacher = probabilities(1, 1, 2, 3)
    student[..., 0, :] = teacher[..., 1, :] = [0, 0, 1]
    loss, gradient = jax.jit(jax.value_and_grad(LOSSES["attention_kl"].value))(student, teacher)
    tiny = np.finfo(np.float32).tiny
    expected = references.attention_kl(np.maximum(student, tiny), teacher)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@by_name
def test_what_does_not_fit_is_refused(name):
    student, teacher = probabilities(3, 2, 4, 5)
    need = r"student \(3, 2, 4, 4\), teacher \(3, 2, 4, 5\): need .* equal but for the heads"
    with pytest.raises(ValueError, match=need):
        LOSSES[name].value(student[..., :4], teacher)
    with pytest.raises(ValueError, match=r"mask \(3, 4\), student \(3, 2, 4, 5\): need"):
        LOSSES[name].value(student, teacher, mask=np.ones((3, 4)))

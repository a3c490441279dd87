import functools

import jax
import numpy as np
import pytest

from slim.distill import LOSSES
from tests.slim.distill.losses import references

NAMES = ["l2", "cosine", "attention_transfer"]
VALUES = {name: jax.jit(LOSSES[name].value) for name in NAMES}


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(4, 3, 3, 6), (4, 5, 6)])
@pytest.mark.parametrize("name", NAMES)
def test_against_numpy(name, shape):
    student, teacher = features(*shape)
    expected = getattr(references, name)(student, teacher)
    np.testing.assert_allclose(VALUES[name](student, teacher), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["l2", "cosine"])
def test_a_mask_of_tokens(name):
    student, teacher = features(4, 5, 6)
    mask = np.array([5, 3, 0, 1])[:, None] > np.arange(5)
    expected = getattr(references, name)(student[mask], teacher[mask])
    np.testing.assert_allclose(VALUES[name](student, teacher, mask=mask), expected, rtol=1e-5)


def test_attention_transfer_of_the_positions_that_count():
    student, teacher = features(2, 4, 6)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    one = references.attention_transfer(student[:1, :2], teacher[:1, :2])
    two = references.attention_transfer(student[1:], teacher[1:])
    result = VALUES["attention_transfer"](student, teacher, mask=mask)
    np.testing.assert_allclose(result, (one + two) / 2, rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_powers_of_attention_transfer(power):
    student, teacher = features(4, 3, 3, 6)
    transfer = functools.partial(LOSSES["attention_transfer"].value, power=power)
    run = jax.jit(jax.value_and_grad(transfer))
    loss, gradient = run(student, teacher)
    expected = references.attention_transfer(student, teacher, power)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isfinite(run(np.zeros_like(student), teacher)[1]).all()
    assert np.isfinite(gradient).all()


def test_attention_transfer_does_not_see_which_channel_or_how_many():
    student, teacher = features(4, 3, 3, 6)
    transfer = VALUES["attention_transfer"]
    expected = transfer(student, teacher)
    permuted = transfer(student[..., [3, 1, 0, 5, 4, 2]], teacher)
    np.testing.assert_allclose(permuted, expected, rtol=1e-5)
    doubled = transfer(np.concatenate([student, -student], axis=-1), 3 * teacher)
    np.testing.assert_allclose(doubled, expected, rtol=1e-5)


def test_cosine_of_vectors_of_length_0():
    student, teacher = features(3, 6)
    student[:2] = teacher[0] = 0
    expected = (0 + 1 / 2 + references.cosine(student[2:], teacher[2:])) / 3
    np.testing.assert_allclose(VALUES["cosine"](student, teacher), expected, rtol=1e-5)


def test_cosine_of_tiny_and_of_huge_vectors():
    student, teacher = features(3, 6)
    run = jax.jit(jax.value_and_grad(LOSSES["cosine"].value))
    for scale in (1e-10, 1e15):
        loss, gradient = run(np.float32(scale) * student, teacher)
        np.testing.assert_allclose(loss, references.cosine(student, teacher), rtol=1e-5)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["l2", "cosine"])
def test_widths_that_differ_are_refused(name):
    student, teacher = features(4, 5, 6)
    with pytest.raises(ValueError, match=r"student \(4, 5, 4\), teacher \(4, 5, 6\).*`project`"):
        LOSSES[name].value(student[..., :4], teacher)


def test_bad_attention_transfer_is_refused():
    student, teacher = features(4, 3, 3, 6)
    with pytest.raises(ValueError, match=r"student \(4, 2, 3, 6\), teacher \(4, 3, 3, 6\)"):
        LOSSES["attention_transfer"].value(student[:, :2], teacher)
    with pytest.raises(ValueError, match=r"power = 0\.5 must be at least 1"):
        LOSSES["attention_transfer"].value(student, teacher, power=0.5)

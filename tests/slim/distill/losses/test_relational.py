import jax
import numpy as np
import pytest
from scipy.stats import ortho_group

from slim.distill import LOSSES
from tests.slim.distill.losses import references

NAMES = ["rkd_distance", "rkd_angle", "similarity_preserving"]
VALUES = {name: jax.jit(LOSSES[name].value) for name in NAMES}
by_name = pytest.mark.parametrize("name", NAMES)


def vectors(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@by_name
@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 2, 3)])
def test_against_numpy_with_any_widths(name, shape):
    student, teacher = vectors(5, 4), vectors(*shape, seed=1) + 1
    teacher[0] *= 10  # far enough that Huber's loss is linear somewhere
    expected = getattr(references, name)(student, teacher)
    np.testing.assert_allclose(VALUES[name](student, teacher), expected, rtol=1e-5)


@by_name
def test_a_mask_of_tokens_makes_them_0(name):
    student, teacher = vectors(5, 3, 4), vectors(5, 3, 6, seed=1)
    mask = np.array([3, 1, 2, 0, 3])[:, None] > np.arange(3)
    given = [np.delete(np.where(mask[..., None], x, 0), 3, axis=0) for x in (student, teacher)]
    result = VALUES[name](student, teacher, mask=mask)
    np.testing.assert_allclose(result, getattr(references, name)(*given), rtol=1e-5)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_rkd_does_not_see_rotation_scale_and_shift(name):
    student, teacher = vectors(6, 5), vectors(6, 5, seed=1)
    moved = 7 * student @ ortho_group.rvs(5, random_state=0).astype(np.float32) + 3
    expected = VALUES[name](student, teacher)
    np.testing.assert_allclose(VALUES[name](moved, teacher), expected, rtol=1e-4)
    np.testing.assert_allclose(VALUES[name](moved, student), 0, atol=1e-9)


def test_similarity_preserving_does_not_see_an_orthogonal_map():
    student, teacher = vectors(6, 5), vectors(6, 5, seed=1)
    turned = 7 * student @ ortho_group.rvs(5, random_state=0).astype(np.float32)
    value = VALUES["similarity_preserving"]
    np.testing.assert_allclose(value(turned, teacher), value(student, teacher), rtol=1e-4)
    np.testing.assert_allclose(value(turned, student), 0, atol=1e-9)
    assert value(turned + 3, student) > 1e-3


def test_two_examples_are_always_at_their_mean_distance():
    assert VALUES["rkd_distance"](vectors(2, 3), vectors(2, 3, seed=1)) < 1e-12
    assert VALUES["rkd_angle"](vectors(2, 3), vectors(2, 3, seed=1)) == 0


def test_an_equilateral_and_a_right_angle():
    equilateral = np.float32([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
    right = np.float32([[0, 0], [3, 0], [0, 4]])
    # Distances 3, 4, 5 of mean 4 against 1, 1, 1; cosines 0, 3/5, 4/5 against 1/2 each.
    np.testing.assert_allclose(
        VALUES["rkd_distance"](right, equilateral), (1 / 16 + 0 + 1 / 16) / 2 / 3, rtol=1e-5
    )
    np.testing.assert_allclose(
        VALUES["rkd_angle"](right, equilateral), (0.25 + 0.01 + 0.09) / 2 / 3, rtol=1e-5
    )


@by_name
def test_examples_that_are_the_same(name):
    student, teacher = vectors(5, 4), vectors(5, 4, seed=1)
    student[1] = student[0]
    gradient = jax.jit(jax.grad(LOSSES[name].value))(student, teacher)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=1) > 0).all()


@by_name
def test_batches_that_differ_are_refused(name):
    with pytest.raises(ValueError, match=r"student \(4, 3\), teacher \(5, 3\): need"):
        LOSSES[name].value(vectors(4, 3), vectors(5, 3))

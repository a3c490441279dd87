import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.prune.ranking import MAX_RANKED, keep_largest, keep_largest_of_each
from slim.prune.ratio import check_keep, kept_count

# Few distinct values, so that ties abound; -0.0 and subnormals have odd bits.
VALUES = st.sampled_from([0.0, -0.0, 1e-45, 1e-3, 1.0, 1.0000001, 2.0, 3e38, np.inf])


def by_sorting(arrays, count):
    flat = np.concatenate([np.abs(a).ravel() for a in arrays])
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:count]] = True
    ends = np.cumsum([a.size for a in arrays])[:-1]
    return [m.reshape(a.shape) for m, a in zip(np.split(mask, ends), arrays, strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=12, max_size=12), st.integers(0, 12))
def test_equals_a_stable_sort(values, count):
    flat = np.array(values, np.float32)
    arrays = [flat[:6].reshape(2, 3), flat[6:7].reshape(()), flat[7:].reshape(5, 1)]
    masks = jitted_keep_largest(arrays, count)
    for mask, expected in zip(masks, by_sorting(arrays, count), strict=True):
        np.testing.assert_array_equal(mask, expected)


jitted_keep_largest = jax.jit(keep_largest)
jitted_of_each = jax.jit(keep_largest_of_each)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=12, max_size=12), st.integers(0, 6), st.integers(0, 6))
def test_each_equals_a_stable_sort(values, first, second):
    flat = np.array(values, np.float32)
    arrays = [flat[:6].reshape(2, 3), flat[6:]]
    masks = jitted_of_each(arrays, [first, second])
    for array, count, mask in zip(arrays, (first, second), masks, strict=True):
        np.testing.assert_array_equal(mask, by_sorting([array], count)[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, min_size=6, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_only_the_eligible_are_kept(values, eligible):
    (mask,) = jitted_keep_largest([np.array(values, np.float32)], 3, [np.array(eligible)])
    where = np.flatnonzero(eligible)
    expected = np.zeros(6, bool)
    expected[where] = by_sorting([np.array(values, np.float32)[where]], 3)[0]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_every_float_type(dtype):
    values = jnp.array([0.5, 3.0, 2.0, 0.25], dtype)
    np.testing.assert_array_equal(keep_largest([values], 2)[0], [False, True, True, False])


def test_count_is_clipped():
    values = jnp.arange(4.0)
    assert keep_largest([values], -1)[0].sum() == 0
    assert keep_largest([values], 9)[0].sum() == 4


def test_too_many_to_rank_together_is_refused():
    half = jax.ShapeDtypeStruct((MAX_RANKED // 2 + 1,), jnp.float32)
    with pytest.raises(ValueError, match=r"2147483648 scores.*uniform"):
        jax.eval_shape(keep_largest, [half, half], 3)


@pytest.mark.parametrize("size", [1, 7, 1000, 2**24 + 1, 2**31 - 1])
def test_counts(size):
    for keep in (0.1, 0.25, 0.5, 0.999):
        assert abs(int(kept_count(keep, size)) - keep * size) <= max(0.5, keep * size * 2**-22)
    assert int(kept_count(1.0, size)) == size


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan")])
def test_ratio_outside_zero_to_one_is_refused(keep):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        check_keep(keep)

"""The histogram in fixed memory equals NumPy's over all values at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.quant.observers.histogram import add, empty, fold
from tests.slim.quant.observers.references import DISTRIBUTIONS, values, width

BINS = 512
counted = jax.jit(add)


def histogram_of(*batches):
    histogram = empty(BINS)
    for batch in batches:
        histogram = counted(histogram, jnp.asarray(batch, jnp.float32))
    return histogram


def check(histogram, x):
    """That `histogram` is of the float32 values x, not all 0."""
    w = width(x, BINS)
    assert histogram.width == w
    expected, _ = np.histogram(x[x != 0].astype(np.float64), w * np.arange(-BINS, BINS + 1))
    np.testing.assert_array_equal(histogram.counts, expected)
    assert int(histogram.zeros) == (x == 0).sum()
    np.testing.assert_array_equal(histogram.extremes, (x.min(), x.max()))


@pytest.mark.parametrize("distribution", [name for name in DISTRIBUTIONS if name != "zeros"])
def test_counts(distribution):
    x = values(distribution)
    check(histogram_of(*np.array_split(x, 7)), x)


# On edges and off them, both signs, over the whole range of magnitudes that networks see.
numbers = st.builds(
    lambda mantissa, power: float(np.ldexp(mantissa, power)),
    st.integers(-(2**10), 2**10),
    st.integers(-40, 60),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(numbers, min_size=8, max_size=8), min_size=1, max_size=4))
def test_batches_of_any_magnitudes_in_any_order(batches):
    x = np.array(batches, np.float32)
    if x.any():
        check(histogram_of(*x), x)
        check(histogram_of(*x[::-1]), x)
    else:
        assert not histogram_of(*x).counts.any()


def test_values_on_the_edge_of_the_range():
    for x in ([1.0], [-1.0], [1.0, -1.0, 4.0], [3.9999998, 4.0, -4.0]):
        x = np.array(x, np.float32)
        check(histogram_of(*x[:, None]), x)


def test_folded_counts_are_those_of_magnitudes():
    x = values("student_t")
    expected, _ = np.histogram(np.abs(x.astype(np.float64)), width(x, BINS) * np.arange(BINS + 1))
    np.testing.assert_array_equal(fold(histogram_of(x)), expected)


def test_largest_and_smallest_floats():
    info = np.finfo(np.float32)
    histogram = histogram_of([info.smallest_normal], [info.max, -info.max])
    assert np.flatnonzero(histogram.counts).tolist() == [0, BINS, 2 * BINS - 1]
    tiny = histogram_of([info.smallest_normal, -info.smallest_normal])
    assert np.flatnonzero(tiny.counts).tolist() == [BINS - 1, BINS]


def test_full_counts_stay_full():
    full = np.uint32(2**32 - 3)
    histogram = histogram_of([1.0])
    histogram = histogram._replace(
        counts=jnp.where(histogram.counts > 0, full, histogram.counts), zeros=jnp.uint32(full)
    )
    histogram = counted(histogram, jnp.asarray([1.0] * 5 + [0.0] * 5))
    assert int(histogram.counts.max()) == int(histogram.zeros) == 2**32 - 1
    assert int(fold(counted(histogram, jnp.asarray([-1.0]))).max()) == 2**32 - 1
    # Merged with its neighbour when the width doubles.
    histogram = counted(counted(histogram, jnp.asarray([1.0 + 2.0**-9])), jnp.asarray([1e3]))
    assert int(histogram.counts.max()) == 2**32 - 1


def test_counts_above_what_float32_holds_are_exact():
    start = histogram_of([1.0])
    start = start._replace(counts=start.counts * jnp.uint32(2**24 + 1))
    assert int(counted(start, jnp.asarray([1.0])).counts.max()) == 2**24 + 2

"""Extremes, NaN wherever it may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.numerics.extremes import extremes

# Of many numbers XLA's maximum lost NaN on CPUs when this was written.
SHAPES = [((1,), None), ((1000,), 0), ((200, 24), None), ((200, 24), 0), ((3, 8, 64, 4), (0, 1, 2))]


def examples(shape, dtype, bad=np.nan):
    """(place, numbers with `bad` there) for places at the ends, in between, and odd ones."""
    rng = np.random.default_rng(0)
    size = int(np.prod(shape))
    for place in sorted({0, 1 % size, size // 3, size // 2, 7 * size // 9, size - 1}):
        x = rng.normal(size=size).astype(np.float32)
        x[place] = bad
        yield np.unravel_index(place, shape), jnp.asarray(x.reshape(shape), dtype)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_nan_is_seen_and_nothing_else_is_nan(shape, axis, dtype):
    jitted = jax.jit(lambda x: extremes(x, axis))
    given = list(examples(shape, dtype))
    alone = [jitted(x) for _, x in given]
    together = jax.jit(jax.vmap(lambda x: extremes(x, axis)))(jnp.stack([x for _, x in given]))
    for i, (place, x) in enumerate(given):
        numbers = np.asarray(x, np.float32)
        expected = numbers.min(axis), numbers.max(axis)
        assert np.isnan(expected).any(), place
        for found in (extremes(x, axis), alone[i], [end[i] for end in together]):
            np.testing.assert_array_equal(found, expected)
            assert {end.dtype for end in found} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinities_are_extremes(shape, axis, bad):
    for _, x in examples(shape, jnp.float32, bad):
        np.testing.assert_array_equal(
            extremes(x, axis), (np.asarray(x).min(axis), np.asarray(x).max(axis))
        )


def test_extremes_of_nothing():
    assert [float(end) for end in extremes(jnp.zeros((0, 3)))] == [np.inf, -np.inf]

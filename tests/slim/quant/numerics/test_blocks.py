"""Blocks, against loops over them."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from slim.quant.numerics import scale_shape
from slim.quant.numerics.blocks import reduce_blocks, spread

SHAPE = (3, 4, 12, 6)
SCALE_SHAPES = [(1, 1, 1, 1), (1, 1, 1, 6), (3, 1, 4, 6), (1, 2, 12, 3), SHAPE]


def blocks(shape, scale_shape):
    """Of each scale's index, the slices of its block."""
    for index in itertools.product(*map(range, scale_shape)):
        sizes = [n // m for n, m in zip(shape, scale_shape, strict=True)]
        yield index, tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, sizes, strict=True))


@pytest.mark.parametrize("scale_shape", SCALE_SHAPES)
def test_blocks_are_those_of_a_loop(scale_shape):
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    largest = np.asarray(reduce_blocks(jnp.max, jnp.asarray(x), scale_shape))
    repeated = np.broadcast_to(spread(jnp.asarray(largest), SHAPE), SHAPE)
    assert largest.shape == scale_shape
    for index, block in blocks(SHAPE, scale_shape):
        assert largest[index] == x[block].max()
        assert (repeated[block] == largest[index]).all()


@pytest.mark.parametrize(
    ("shape", "contracted", "granularity", "group_dim", "expected"),
    [
        ((64, 32), (0,), "tensor", None, (1, 1)),
        ((64, 32), (0,), "channel", None, (1, 32)),
        ((64, 32), (1,), "channel", None, (64, 1)),
        ((64, 32), (0,), 64, None, (1, 32)),
        ((3, 3, 64, 32), (0, 1, 2), "channel", None, (1, 1, 1, 32)),
        ((3, 3, 64, 32), (0, 1, 2), 16, None, (1, 1, 4, 32)),
        ((12, 64, 384), (0, 1), 4, 0, (3, 1, 384)),
        ((2, 64, 32), (1,), 8, None, (2, 8, 32)),
        ((), (), "channel", None, ()),
    ],
)
def test_shapes_of_scales(shape, contracted, granularity, group_dim, expected):
    assert scale_shape(shape, contracted, granularity, group_dim) == expected


@pytest.mark.parametrize(
    ("contracted", "granularity", "group_dim", "message"),
    [
        ((2,), "tensor", None, r"dimension 2 .*\(12, 6\): must be from 0 to 1"),
        ((-1,), "tensor", None, r"dimension -1 .*must be from 0 to 1"),
        ((0,), 5, None, r"groups of 5 do not divide dimension 0 of size 12 .*1, 2, 3, 4, 6, 12"),
        ((0,), 3, 1, r"group_dim is 1: .*contracted dimension, here \(0,\)"),
        ((), 3, None, r"group_dim is None: .*here \(\)"),
        ((0,), 0, None, r"granularity is 0: "),
        ((0,), True, None, r"granularity is True: "),
        ((0,), "row", None, r"granularity is 'row': .*such as 64"),
    ],
)
def test_what_makes_no_blocks_is_refused(contracted, granularity, group_dim, message):
    with pytest.raises(ValueError, match=message):
        scale_shape((12, 6), contracted, granularity, group_dim)


@pytest.mark.parametrize("shape", [(5, 1), (1,), (0, 1), (24, 1)])
def test_scales_that_do_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match=r"must have 2 dimensions, each a divisor"):
        spread(jnp.ones(shape), (12, 6))

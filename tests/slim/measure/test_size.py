"""Sizes of pytrees of every kind of leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.measure import size

TREE = {
    "layer": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.zeros(3, jnp.bfloat16)},
    "scale": np.array(2.0, np.float32),
    "counts": [jnp.array([0, 1, 0], jnp.int8)],
}


def test_entries_nonzero_and_bytes():
    assert size.entries(TREE) == 6 + 3 + 1 + 3
    assert size.nonzero(TREE) == 5 + 0 + 1 + 1
    assert size.stored_bytes(TREE) == 6 * 4 + 3 * 2 + 4 + 3


def test_shapes_suffice_for_entries_and_bytes():
    shapes = jax.eval_shape(lambda: TREE)
    assert size.entries(shapes) == size.entries(TREE)
    assert size.stored_bytes(shapes) == size.stored_bytes(TREE)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("int4", 6), ("uint2", 3), ("float8_e4m3fn", 11), ("bool", 11), ("float16", 22)],
)
def test_bytes_by_type(dtype, expected):
    assert size.stored_bytes(jax.ShapeDtypeStruct((11,), dtype)) == expected


def test_negative_zero_is_zero_and_nan_is_not():
    assert size.nonzero([jnp.array([-0.0, jnp.nan, 1e-30])]) == 2


def test_nonzero_of_a_sharded_leaf():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    leaf = jax.device_put(np.arange(16.0), jax.NamedSharding(mesh, jax.P("data")))
    assert size.nonzero(leaf) == 15


def test_nothing_is_nothing():
    assert (size.entries({}), size.nonzero({}), size.stored_bytes({})) == (0, 0, 0)

"""Unedited models of other people's packages: their groups, and small equals masked.

`make test-stock` installs the packages and runs this; no other run collects it.
"""

import jax
import jax.numpy as jnp
import pytest

from tests.slim.graph.exactness import assert_exact, random_like
from tests.slim.graph.stock import equinox, haiku, linen, nnx, penzai  # noqa: F401
from tests.slim.graph.stock.table import STOCK


@pytest.mark.stock
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STOCK)
def test_small_is_masked(name):
    """Outputs and gradients, in float64 so that rounding does not hide a difference.

    What the packages warn of, and how they mix types, is theirs.
    """
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        fn, params, *inputs = STOCK[name].make()
        found = assert_exact(fn, random_like(wide(params)), *map(values, inputs))
    assert sorted(group.size for group in found.values()) == STOCK[name].sizes


def wide(tree):
    """The shapes of a tree, its floats in float64."""
    return jax.tree.map(
        lambda like: jax.ShapeDtypeStruct(
            like.shape, jnp.float64 if jnp.issubdtype(like.dtype, jnp.floating) else like.dtype
        ),
        tree,
    )


def values(given):
    """Random floats where a shape is given; tokens as they are."""
    return random_like(wide(given), seed=1) if isinstance(given, jax.ShapeDtypeStruct) else given

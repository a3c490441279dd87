"""The table of stock models: other people's, as their packages have them, at small sizes.

The packages (the extra `stock`) are imported where a model is made, so that this table can be read
without them. Nothing is downloaded: configurations give the shapes, NumPy the parameters.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TOKENS = jnp.asarray(np.arange(16).reshape(2, 8) * 7 % 50, jnp.int32)


class Stock(NamedTuple):
    """A model that somebody else wrote.

    Attributes:
        make: gives the function, its parameters' shapes, and inputs (shapes stand for floats).
        sizes: the sizes of the groups that a reader of the model would name, sorted.
    """

    make: Callable[[], tuple[Any, ...]]
    sizes: list[int]


STOCK: dict[str, Stock] = {}


def stock(**kinds: list[int]):
    """Register the maker of a model with the sizes of its groups by kind."""

    def register(make):
        STOCK[make.__name__] = Stock(make, sorted(itertools.chain(*kinds.values())))
        return make

    return register


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

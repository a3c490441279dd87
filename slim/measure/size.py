"""How large a pytree of parameters is: entries, non-zero entries, bytes."""

import math
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def entries(tree: PyTree) -> int:
    """The number of entries of all leaves; of `params`, the number of parameters.

    Leaves may be arrays or `jax.ShapeDtypeStruct`s.

    >>> entries({"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)})
    16
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nonzero(tree: PyTree) -> int:
    """The number of entries that are not 0, over all leaves; NaN is not 0."""
    return sum(int(count) for count in _nonzero_by_leaf(jax.tree.leaves(tree)))


@jax.jit
def _nonzero_by_leaf(leaves: list[jax.Array]) -> list[jax.Array]:
    """Each leaf's count; their sum is taken in Python, where it cannot overflow."""
    return [jnp.count_nonzero(leaf) for leaf in leaves]


def stored_bytes(tree: PyTree) -> int:
    """Bytes of all leaves as their types store them: 4 an entry for float32, 1/2 for int4.

    Zeros count like any other value. Leaves may be arrays or `jax.ShapeDtypeStruct`s; one of a
    type below 8 bits is rounded up to whole bytes.

    >>> stored_bytes({"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4, jnp.bfloat16)})
    56
    """
    return sum(
        math.ceil(math.prod(leaf.shape) * _bits(leaf.dtype) / 8) for leaf in jax.tree.leaves(tree)
    )


def _bits(dtype: Any) -> int:
    """Bits an entry of a type takes."""
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.finfo(dtype).bits
    return 8 * jnp.dtype(dtype).itemsize

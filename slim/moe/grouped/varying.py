"""Inside `jax.shard_map`: values that vary over the same mesh axes, as carries of loops must."""

from typing import Any

import jax

PyTree = Any


def alike(tree: PyTree, *others: PyTree) -> PyTree:
    """The tree, each leaf varying over all axes over which a leaf of any argument does."""
    axes = frozenset().union(*map(_axes, jax.tree.leaves((tree, others))))

    def cast(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def _axes(leaf: jax.Array) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying

"""Where parameters and activations lie on a mesh of `data`, `fsdp`, `expert` and `tensor`.

Every dimension of a parameter has a name, and every name the mesh axes that may split it. Experts
are divided over `expert`; what all tokens share would be the same on each of its devices, and is
split over it too. Columns of the first product of a pair and rows of the second lie on `tensor`.

A dimension is split only into shards of a multiple of 16: TPU memory is tiled, and XLA turns the
gathers of misaligned shards into sums over all devices.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slim import paths

PyTree = Any

ALIGNED = 16
"""Rows in a tile of 16-bit numbers."""

MESH_AXES: Mapping[str, tuple[str, ...]] = {
    "experts": ("expert",),
    "width": ("fsdp",),
    "latent": ("expert",),
    "from_latent": ("fsdp",),
    "hidden": ("tensor", "expert"),
    "heads": ("tensor", "expert"),
    "vocabulary": ("tensor", "fsdp"),
    "embedded": ("expert",),
    "whole": (),
}
"""The mesh axes that may split a dimension of that name, in order; one that splits an earlier
dimension of the parameter is passed over."""

DIMENSIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("*/embedding", ("vocabulary", "embedded")),
    ("*/head", ("embedded", "vocabulary")),
    ("*/project", ("width", "embedded")),
    ("*/query_down", ("width", "latent")),
    ("*/latent_down", ("width", "latent")),
    ("*/rotary_key", ("width", "whole")),
    ("*/query_up", ("from_latent", "heads")),
    ("*/query_rotary", ("from_latent", "heads")),
    ("*/key_up", ("from_latent", "heads")),
    ("*/value_up", ("from_latent", "heads")),
    ("*/out", ("heads", "width")),
    ("*/router/kernel", ("width", "whole")),
    ("*/experts/gate", ("experts", "width", "hidden")),
    ("*/experts/up", ("experts", "width", "hidden")),
    ("*/experts/down", ("experts", "hidden", "width")),
    ("*/gate", ("width", "hidden")),
    ("*/up", ("width", "hidden")),
    ("*/down", ("hidden", "width")),
    ("*/scale", ("whole",)),
    ("*/bias", ("whole",)),
    ("*/assignment", ("whole",)),
)
"""The names of a parameter's last dimensions, by path; first match wins. Stacks have one more."""


class Layout(NamedTuple):
    """Where activations lie.

    Attributes:
        mesh: the devices, with automatic axes.
        batch: the axes that split the first dimension.
        columns: those that split heads, hidden units and the vocabulary.
    """

    mesh: Mesh
    batch: tuple[str, ...] = ("data", "fsdp", "expert")
    columns: tuple[str, ...] = ("tensor",)


def constrain(x: jax.Array, layout: Layout | None, *, columns: bool = False) -> jax.Array:
    """Fixes where `(batch, ..., features)` lies; without a layout the compiler may choose.

    Left alone it may move activations of all tokens to where a matrix is, not its parts to them.

    Args:
        x: the activations.
        layout: the mesh axes.
        columns: whether the features are heads, hidden units or tokens of the vocabulary.
    """
    if layout is None:
        return x
    last = layout.columns if columns else None
    return _placed(x, layout, PartitionSpec(layout.batch, *[None] * (x.ndim - 2), last))


def looked_up(x: jax.Array, layout: Layout | None) -> jax.Array:
    """Rows of the embedding `(batch, length, width)`, first where its columns are.

    So its gradient is one of these columns alone; else every device adds up one of the whole table,
    and all of these are summed.
    """
    if layout is None:
        return x
    columns = _axes("embedding", "embedded", x.shape[-1], set(), layout.mesh.shape)
    rows = tuple(axis for axis in layout.batch if axis not in columns)
    return constrain(_placed(x, layout, PartitionSpec(rows, None, columns or None)), layout)


def _placed(x: jax.Array, layout: Layout, place: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, place))


def whole(matrix: jax.Array, name: str, layout: Layout | None) -> jax.Array:
    """A matrix as it is multiplied by: gathered over all axes but those of `Layout.columns`.

    Along one dimension after the other, and its gradient scattered likewise: what is split along
    two XLA would gather, at once, by a sum over all devices of zeros beside their parts.

    Args:
        matrix: `(rows, columns)`.
        name: of the parameter, which its place follows from.
        layout: the mesh, if there is one.
    """
    if layout is None:
        return matrix
    rows, columns = axes_of(spec(name, matrix.shape, layout.mesh.shape), 2)
    kept = tuple(axis for axis in columns if axis in layout.columns)
    places = [
        PartitionSpec(*(axes or None for axes in split))
        for split in ((rows, columns), (rows, kept), ((), kept))
    ]

    @jax.custom_vjp
    def gathered(matrix: jax.Array) -> jax.Array:
        for place in places:
            matrix = _placed(matrix, layout, place)
        return matrix

    def forward(matrix: jax.Array) -> tuple[jax.Array, None]:
        return gathered(matrix), None

    def backward(kept: None, gradient: jax.Array) -> tuple[jax.Array]:
        del kept
        for place in places[-2::-1]:
            gradient = _placed(gradient, layout, place)
        return (gradient,)

    gathered.defvjp(forward, backward)
    return gathered(matrix)


def specs(variables: PyTree, mesh: Mapping[str, int]) -> PyTree:
    """The partition of every variable, from their shapes.

    Args:
        variables: arrays or `jax.ShapeDtypeStruct`s: `params`, `router`, both or a part of them.
        mesh: size by axis, as `mesh.shape`; axes that are not there do not split.

    Raises:
        ValueError: the experts cannot be divided over the axis `expert`, or a parameter is none of
            `DIMENSIONS`.
    """
    return paths.map_with_path(lambda path, leaf: spec(path, leaf.shape, mesh), variables)


def spec(path: str, shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """The partition of one variable; see `specs`."""
    found = [names for pattern, names in DIMENSIONS if paths.matches(pattern, "/" + path)]
    if not found:
        raise ValueError(f"parameter {path!r} has no place in slim.models.deepseek.sharding")
    names = found[0]
    used: set[str] = set()
    split: list[tuple[str, ...]] = [()] * (len(shape) - len(names))
    for name, size in zip(names, shape[-len(names) :], strict=True):
        split.append(_axes(path, name, size, used, mesh))
        used.update(split[-1])
    while split and not split[-1]:
        split.pop()
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in split))


def axes_of(place: PartitionSpec, dimensions: int) -> tuple[tuple[str, ...], ...]:
    """The mesh axes of each dimension.

    >>> axes_of(PartitionSpec("fsdp"), 2)
    (('fsdp',), ())
    """
    padded = (*place, *[None] * (dimensions - len(place)))
    return tuple(
        () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes) for axes in padded
    )


def _axes(
    path: str, name: str, size: int, used: set[str], mesh: Mapping[str, int]
) -> tuple[str, ...]:
    """The mesh axes that split a dimension."""
    taken: list[str] = []
    for axis in MESH_AXES[name]:
        parts = prod(mesh[each] for each in taken) * mesh.get(axis, 1)
        if mesh.get(axis, 1) == 1 or axis in used:
            continue
        if name == "experts" and size % parts:
            raise ValueError(
                f"{path}: {size} experts cannot be divided over expert = {parts} devices; choose "
                "a divisor"
            )
        if name == "experts" or size % (parts * ALIGNED) == 0:
            taken.append(axis)
    return tuple(taken)

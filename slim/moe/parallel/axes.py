"""Which mesh axes the layer uses, how they divide its arrays, and what does not divide."""

from typing import Literal, NamedTuple

import jax
from jax.sharding import Mesh, PartitionSpec

from slim.moe.experts import Experts

Gathered = Literal["width", "hidden"]


class Axes(NamedTuple):
    """The names of the mesh axes; an axis that is not needed has size 1.

    Attributes:
        data: copies of the weights.
        fsdp: parts of the weights that are gathered when used.
        tensor: parts of every expert's hidden units.
        expert: parts that the experts are split into.
    """

    data: str = "data"
    fsdp: str = "fsdp"
    tensor: str = "tensor"
    expert: str = "expert"

    @property
    def tokens(self) -> tuple[str, str, str]:
        """The axes over which tokens are split; `tensor` has copies of them."""
        return (self.data, self.fsdp, self.expert)


AXES = Axes()


def token_spec(axes: Axes = AXES) -> PartitionSpec:
    """How `(tokens, ...)` lies."""
    return PartitionSpec(axes.tokens)


def weight_specs(axes: Axes = AXES, gathered: Gathered = "width") -> Experts:
    """How the weights lie, a `PartitionSpec` for each.

    Args:
        axes: names of the mesh axes.
        gathered: the dimension that is split over `fsdp`. A shard of fewer rows than a multiple
            of 16 makes XLA gather it by an all-reduce on TPU: choose what leaves whole tiles.

    Raises:
        ValueError: an unknown dimension.

    >>> tuple(weight_specs().down)
    ('expert', 'tensor', 'fsdp')
    """
    if gathered == "width":
        hidden, width = axes.tensor, axes.fsdp
        inward = PartitionSpec(axes.expert, width, hidden)
        return Experts(inward, inward, PartitionSpec(axes.expert, hidden, width))
    if gathered == "hidden":
        both = (axes.tensor, axes.fsdp)
        inward = PartitionSpec(axes.expert, None, both)
        return Experts(inward, inward, PartitionSpec(axes.expert, both, None))
    raise ValueError(f"gathered is {gathered!r}; allowed: 'width', 'hidden'")


def gather(weights: Experts, axes: Axes, gathered: Gathered) -> Experts:
    """The weights whole along `fsdp`, inside `jax.shard_map`; gradients are scattered back."""
    inward, outward = (1, 2) if gathered == "width" else (2, 1)
    dimensions = Experts(inward, inward, outward)
    return Experts(
        *(
            jax.lax.all_gather(weight, axes.fsdp, axis=dimension, tiled=True)
            for weight, dimension in zip(weights, dimensions, strict=True)
        )
    )


def total_load(load: jax.Array, axes: Axes = AXES) -> jax.Array:
    """The load of all devices' tokens, inside `jax.shard_map` over the mesh.

    `update_bias` takes the sign of its difference from the mean: of each device's own load it
    would give every device another bias. Under `jax.jit` alone arrays are global, `slim.moe.load`
    of them is the whole load already, and nothing is to be done.

    Args:
        load: `(..., experts)`, of this device's tokens.
        axes: names of the mesh axes.
    """
    return jax.lax.psum(load, axes.tokens)


def check_mesh(mesh: Mesh, axes: Axes) -> None:
    """Refuse a mesh without the axes.

    Raises:
        ValueError: naming the axis.
    """
    for field, name in axes._asdict().items():
        if name not in mesh.shape:
            raise ValueError(
                f"axes.{field} is {name!r}; allowed: one of the mesh's {mesh.axis_names}; "
                "give the mesh that axis, of size 1 if it is not needed"
            )


def check_shapes(
    mesh: Mesh, axes: Axes, gathered: Gathered, weights: Experts, tokens: int, parts: int
) -> None:
    """Refuse arrays that the mesh does not divide.

    Raises:
        ValueError: naming the dimension, its size and the divisor.
    """
    count, width, hidden = weights.gate.shape
    size = {field: mesh.shape[name] for field, name in axes._asdict().items()}
    on_fsdp = {"width": (1, size["fsdp"]), "hidden": (size["fsdp"], 1)}[gathered]
    devices = size["data"] * size["fsdp"] * size["expert"]
    if tokens % devices == 0 and tokens // devices % parts:
        raise ValueError(
            f"parts is {parts}; allowed: a divisor of the {tokens // devices} tokens of a device"
        )
    for field, value, divisor, named in (
        ("experts", count, size["expert"], "expert"),
        ("tokens", tokens, devices, "data x fsdp x expert"),
        ("hidden", hidden, size["tensor"] * on_fsdp[0], "tensor"),
        ("width", width, on_fsdp[1], "fsdp"),
    ):
        if value % divisor:
            over = f"{named} x fsdp" if field == gathered == "hidden" else named
            raise ValueError(
                f"{field} is {value}; allowed: a multiple of {divisor}, the devices of the mesh "
                f"axes {over}; change it or the mesh"
            )

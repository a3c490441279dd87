"""The device mesh, and which parameter is split over which of its axes."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from pydantic import Field

from experiments.schema import ConfigError, Schema
from slim import paths
from slim.models.deepseek import sharding as deepseek

PyTree = Any
Axis = Literal["data", "fsdp", "tensor", "expert"]
AXES: tuple[Axis, ...] = ("data", "fsdp", "tensor", "expert")
BATCH_AXES: tuple[Axis, ...] = ("data", "fsdp", "expert")
"""Those that split a batch; devices that differ in the other have the same rows."""

Size = Annotated[int, Field(ge=1)]


class ShardingRule(Schema):
    """How the parameters that match a path pattern are laid out.

    Attributes:
        pattern: a path pattern (`slim.paths`); the first rule that matches a parameter decides.
        split: `largest` splits the largest dimension that the fsdp axis divides; `none` copies to
            every device; `deepseek` takes the table of `slim.models.deepseek.sharding`; or one mesh
            axis, or "", for each dimension.
    """

    pattern: str
    split: Literal["largest", "none", "deepseek"] | tuple[Axis | Literal[""], ...]


class MeshConfig(Schema):
    """Devices as a grid. Batches are split over all axes but `tensor`; parameters by the rules.

    Attributes:
        data: copies of the model; 0 takes all devices that the other axes leave.
        fsdp: parts that parameters and optimizer state are split into, gathered when used.
        tensor: parts that single matrices are split into.
        expert: parts that experts are split into.
        rules: first match wins; together they must cover every parameter.
    """

    data: Annotated[int, Field(ge=0)] = 0
    fsdp: Size = 1
    tensor: Size = 1
    expert: Size = 1
    rules: tuple[ShardingRule, ...] = (ShardingRule(pattern="*", split="largest"),)


def shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """The mesh's size along `AXES`.

    Raises:
        ConfigError: the axes do not multiply to the number of devices.
    """
    rest = config.fsdp * config.tensor * config.expert
    data = config.data or devices // rest
    if data * rest != devices:
        raise ConfigError(
            f"mesh: data {config.data or 'rest'} x fsdp {config.fsdp} x tensor {config.tensor} x "
            f"expert {config.expert} does not make {devices}, the number of devices; "
            "choose axes whose product it is (data = 0 takes the rest)"
        )
    return (data, config.fsdp, config.tensor, config.expert)


def build(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices, of all processes."""
    devices = jax.devices() if devices is None else devices
    # Axes of the mesh need not be axes of a pod's torus: jax.make_mesh refuses 16 x 32 of 8x8x8.
    grid = mesh_utils.create_device_mesh(
        shape(config, len(devices)), devices=devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_parts(mesh_shape: Sequence[int]) -> int:
    """Into how many parts a batch is split, of the mesh's size along `AXES`."""
    sizes = dict(zip(AXES, mesh_shape, strict=True))
    return math.prod(sizes[axis] for axis in BATCH_AXES)


def check_batch(batch_size: int, mesh_shape: Sequence[int], field: str) -> None:
    """Refuse a global batch that the devices cannot share equally.

    Raises:
        ConfigError: naming the field.
    """
    parts = batch_parts(mesh_shape)
    if batch_size % parts:
        raise ConfigError(
            f"{field} = {batch_size}: must be divisible by the {parts} devices of the mesh axes "
            f"{' x '.join(BATCH_AXES)}; try {max(parts, batch_size // parts * parts)}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension over `BATCH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """This process's rows of a global batch, as global arrays."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def parameter_specs(
    config: MeshConfig, sizes: dict[str, tuple[int, ...]], mesh_shape: Sequence[int]
) -> dict[str, PartitionSpec]:
    """The partition of each parameter, by path.

    Args:
        config: with the rules.
        sizes: each parameter's shape by path.
        mesh_shape: the mesh's size along `AXES`.

    Raises:
        ConfigError: a parameter that no rule covers, a rule that decides nothing, or a split that
            does not fit a shape.
    """
    try:
        chosen = paths.resolve(
            [(rule.pattern, rule.split) for rule in config.rules], sizes, what="mesh.rules pattern"
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return {
        path: _spec(path, split, sizes[path], dict(zip(AXES, mesh_shape, strict=True)))
        for path, split in chosen.items()
    }


def _spec(path: str, split: Any, size: tuple[int, ...], axes: dict[Axis, int]) -> PartitionSpec:
    if split is None:
        raise ConfigError(
            f"mesh.rules: no rule covers the parameter {path!r}; end with "
            "{'pattern': '*', 'split': 'none'}"
        )
    if split == "none":
        return PartitionSpec()
    if split == "deepseek":
        try:
            return deepseek.spec(path, size, {str(axis): parts for axis, parts in axes.items()})
        except ValueError as error:
            raise ConfigError(f"mesh.rules: {error}") from None
    if split == "largest":
        divisible = [n if n % axes["fsdp"] == 0 else 0 for n in size]
        if axes["fsdp"] == 1 or not any(divisible):
            return PartitionSpec()
        return PartitionSpec(*[None] * int(np.argmax(divisible)), "fsdp")
    if len(split) != len(size) or any(n % axes.get(a, 1) for n, a in zip(size, split, strict=True)):
        raise ConfigError(
            f"mesh.rules: split {split} does not fit {path!r} of shape {size}: one mesh axis or '' "
            "for each dimension, whose size it must divide"
        )
    return PartitionSpec(*(axis or None for axis in split))


def state_shardings(
    state: PyTree, params: PyTree, specs: dict[str, PartitionSpec], mesh: Mesh
) -> PyTree:
    """Shardings of a whole training state: what belongs to a parameter lies where it does.

    A leaf belongs to the parameter whose path ends its own and whose shape it has (the moments of
    an optimizer, masks, averages); all others are copied to every device.
    """
    sizes = {path: tuple(leaf.shape) for path, leaf in paths.flatten(params).items()}

    def place(path: str, leaf: Any) -> NamedSharding:
        names = path.split("/")
        for start in range(len(names)):
            parameter = "/".join(names[start:])
            if sizes.get(parameter) == tuple(leaf.shape):
                return NamedSharding(mesh, specs[parameter])
        return replicated(mesh)

    return paths.map_with_path(place, state)


def bytes_per_device(state: PyTree, shardings: PyTree) -> int:
    """Bytes of a (possibly abstract) state on one device."""
    sizes = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
        ),
        state,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))

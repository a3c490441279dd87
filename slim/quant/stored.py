"""A quantized model at rest: nested dicts of arrays, bits packed, and a small JSON beside them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from slim import paths
from slim.graph import Graph, sites
from slim.graph.stored_json import Fields, Stored, exactly, optional, record, row, table
from slim.quant.integer import Quantized
from slim.quant.numerics import QTensor, pack, unpack
from slim.quant.policy import Activations, Assigned, Weights
from slim.quant.simulate import Scale

PyTree = Any

SITES = "quantized"
"""The entry of the stored tree that holds what sites have, by their names."""

Specs = Mapping[str, tuple[Weights | None, Activations | None]]


def _spec(pair: Any) -> tuple[Weights | None, Activations | None]:
    weights, activations = exactly(list)(pair)
    return optional(record(Weights))(weights), optional(record(Activations))(activations)


def _shape(pair: Any) -> jax.ShapeDtypeStruct:
    shape, dtype = exactly(list)(pair)
    return jax.ShapeDtypeStruct(row(exactly(int))(shape), jnp.dtype(exactly(str)(dtype)))


@dataclass(frozen=True)
class Quantization(Stored):
    """How each site of a model is quantized: with the arrays of `store`, all that there is of it.

    Attributes:
        specs: of the quantized sites, how the parameter and the activations are rounded.
        arrays: the shapes of what `store` gave.
    """

    KIND: ClassVar[str] = "quantization"
    FIELDS: ClassVar[Fields] = {
        "specs": table(_spec),
        "arrays": table(_shape),
    }

    specs: Specs
    arrays: Mapping[str, jax.ShapeDtypeStruct]

    @classmethod
    def of(cls, assigned: Mapping[str, Assigned], stored: PyTree) -> "Quantization":
        """That of a model of whose sites `assigned` tells, and that `store` gave."""
        return cls(specs_of(assigned), paths.flatten(jax.eval_shape(lambda: stored)))

    def abstract(self) -> PyTree:
        """The shapes of what `store` gave, in its form."""
        return paths.unflatten(self.arrays)

    def on(self, graph: Graph) -> dict[str, Assigned]:
        """What the sites of a graph of the float model get.

        Raises:
            ValueError: the graph is of another model.
        """
        return assigned_as(graph, self.specs)

    def plain(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {
            "specs": {
                name: [asdict(spec) if spec else None for spec in pair]
                for name, pair in self.specs.items()
            },
            "arrays": {path: [leaf.shape, leaf.dtype.name] for path, leaf in self.arrays.items()},
        }


def specs_of(assigned: Mapping[str, Assigned]) -> Specs:
    """How the quantized sites are rounded, without the graph that they are in."""
    return {name: (each.weights, each.activations) for name, each in assigned.items() if each.roles}


def assigned_as(graph: Graph, specs: Specs) -> dict[str, Assigned]:
    """`assign` with a spec for each site in place of rules; sites without one are left out.

    Raises:
        ValueError: the graph has no site of a name, or a group does not divide its parameter.
    """
    every = {site.name: site for site in sites(graph)}
    found = {}
    for name, (weights, activations) in specs.items():
        if name not in every:
            near = ", ".join(paths.nearest(name, every) or sorted(every)[:3])
            raise ValueError(f"the model has no site {name!r}; nearest: {near}")
        found[name] = Assigned(every[name], weights, activations, "as recorded")
        for role in found[name].roles:
            found[name].scale_shape(role)
    return found


def store(quantized: Quantized) -> PyTree:
    """A quantized model as nested dicts of arrays, each weight at its bits; pure.

    Its parameters, which must be nested dicts, without those that are gone, and under `SITES` each
    site's: `weights` (values, scale, zero_point), its activations (scale, zero_point) by role, and
    what else it has.
    """
    held = {
        f"{SITES}/{name}/{key}": _plain(entry)
        for name, entries in quantized.sites.items()
        for key, entry in entries.items()
    }
    return paths.unflatten(
        {**paths.flatten(quantized.params), **paths.flatten(paths.unflatten(held))}
    )


def restore(assigned: Mapping[str, Assigned], stored: PyTree) -> Quantized:
    """What `store` was given, for `execute` by the same sites; pure."""
    rest = {key: entry for key, entry in stored.items() if key != SITES}
    found = {}
    for name, each in assigned.items():
        if not each.roles:
            continue
        entries = stored[SITES]
        for key in name.split("/"):
            entries = entries[key]
        found[name] = {key: _entry(each, key, entry) for key, entry in entries.items()}
    return Quantized(rest, found)


def _plain(entry: QTensor | Scale | jax.Array) -> Any:
    if not isinstance(entry, QTensor | Scale):
        return entry
    arrays = {"scale": entry.scale, "zero_point": entry.zero_point}
    if isinstance(entry, QTensor):
        arrays["values"] = pack(entry.values, entry.format)
    return {name: array for name, array in arrays.items() if array is not None}


def _entry(assigned: Assigned, key: str, entry: Any) -> Any:
    role = next((role for role in assigned.roles if role.name == key), None)
    if role is None:
        return entry
    scale = Scale(entry["scale"], entry.get("zero_point"))
    if key != "weights":
        return scale
    shape = (*assigned.site.loops, *assigned.site.shapes[role.operand])
    return QTensor(unpack(entry["values"], role.spec.format, shape), *scale, role.spec.format)

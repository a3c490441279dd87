"""A plan: which indices of each group are kept; what it does to parameters.

A plan stands alone. It holds the shapes of the original parameters and how each of their
dimensions is made of groups, so parameters are cut without the model, in any process.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.graph import axes
from slim.graph.axes import Axis, Dims
from slim.graph.groups import analyse
from slim.graph.rules.kept import Kept
from slim.graph.stored_json import Fields, Stored, exactly, row, table
from slim.graph.trace import Graph

PyTree = Any

Layout = int | str | tuple[Any, ...]
"""A dimension: its size where nothing of it can be cut, a group's name, or a tuple of "*" or "+"
and the layouts that it is the product or the sum of."""


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, eq=False)
class Plan(Stored):
    """Which indices of each group are kept.

    Invariants: every group has at least one index left; kept indices ascend; `layout` has a list
    for each parameter that a group runs along, with one entry per dimension.

    Attributes:
        shapes: the original shape of every parameter, by path.
        layout: how the dimensions of cut parameters are made of groups.
        sizes: the original size of each group.
        keep: the kept indices of each group that is cut.
    """

    FIELDS: ClassVar[Fields] = {
        "shapes": table(row(exactly(int))),
        "layout": table(row(_tuples)),
        "sizes": table(exactly(int)),
        "keep": table(row(exactly(int))),
        "checksum": exactly(str),
    }

    shapes: Mapping[str, tuple[int, ...]]
    layout: Mapping[str, tuple[Layout, ...]]
    sizes: Mapping[str, int]
    keep: Mapping[str, tuple[int, ...]]

    def axes(self) -> tuple[dict[str, Axis], dict[str, Dims]]:
        """Fresh axes: of each group, and of each parameter that a group runs along."""
        atoms = {name: axes.atom(size) for name, size in self.sizes.items()}
        return atoms, {
            path: tuple(_axis(each, atoms) for each in layout)
            for path, layout in self.layout.items()
        }

    @cached_property
    def indices(self) -> Mapping[str, tuple[np.ndarray | None, ...]]:
        """For each cut parameter, the kept positions along each dimension; None keeps all."""
        atoms, params = self.axes()
        kept = Kept({atoms[name]: np.asarray(keep) for name, keep in self.keep.items()})
        cut = {path: tuple(kept(axis) for axis in dims) for path, dims in params.items()}
        return {path: each for path, each in cut.items() if any(k is not None for k in each)}

    def small_shape(self, path: str) -> tuple[int, ...]:
        """The shape of a parameter after the cut."""
        kept = self.indices.get(path) or (None,) * len(self.shapes[path])
        return tuple(
            n if k is None else len(k) for n, k in zip(self.shapes[path], kept, strict=True)
        )

    @property
    def fingerprint(self) -> str:
        """A hash of everything but the choice: two plans of one model share it."""
        return _hash({k: v for k, v in self._fields().items() if k != "keep"})

    def plain(self) -> dict[str, Any]:
        """The fields and their checksum."""
        fields = self._fields()
        return {**fields, "checksum": _hash(fields)}

    @classmethod
    def read(cls, text: str) -> dict[str, Any]:
        """The fields, if they are as they were written.

        Raises:
            ValueError: as `from_json`.
        """
        fields = super().read(text)
        if fields.pop("checksum") != _hash(fields):
            raise ValueError("the plan's checksum does not match its content: it was altered")
        return fields

    def _fields(self) -> dict[str, Any]:
        names = ("shapes", "layout", "sizes", "keep")
        return {name: dict(getattr(self, name)) for name in names}


def make_plan(graph: Graph, keep: Mapping[str, Sequence[int] | np.ndarray]) -> Plan:
    """The plan that keeps, of each group named, the indices given, and all of the others.

    Args:
        graph: the graph whose groups are meant.
        keep: by group name, the indices to keep, in any order.

    Raises:
        ValueError: no such group, a group that may not be cut (with the reasons), indices out of
            range, repeated, or none.
    """
    analysis = analyse(graph)
    chosen = {}
    for name, indices in keep.items():
        if name not in analysis.groups:
            _refuse(name, analysis.groups, {group.name: group.frozen for group in analysis.frozen})
        size = analysis.groups[name].size
        kept = np.asarray(indices)
        if kept.ndim != 1 or kept.dtype.kind not in "iu" or not kept.size:
            raise ValueError(
                f"keep[{name!r}] is {indices!r}: give a flat list of one or more integers"
            )
        if kept.min() < 0 or kept.max() >= size or len(set(kept.tolist())) != kept.size:
            raise ValueError(
                f"keep[{name!r}] has indices out of range or repeated; allowed: distinct integers "
                f"from 0 to {size - 1}"
            )
        if kept.size < size:
            chosen[name] = tuple(sorted(kept.tolist()))
    layout = {}
    for path, dims in analysis.inferred.params.items():
        entries = tuple(_layout(axis, analysis.names) for axis in dims)
        if not all(isinstance(entry, int) for entry in entries):
            layout[path] = entries
    return Plan(
        shapes={path: tuple(each.shape) for path, each in graph.param_shapes.items()},
        layout=layout,
        sizes={name: group.size for name, group in analysis.groups.items()},
        keep=chosen,
    )


def _refuse(name: str, groups: Mapping[str, Any], frozen: Mapping[str, tuple[str, ...]]) -> None:
    if name in frozen:
        raise ValueError(f"group {name!r} may not be cut: {'; '.join(frozen[name])}")
    near = paths.nearest(name, groups) or sorted(groups)[:3]
    raise ValueError(f"no group is named {name!r}; nearest: {', '.join(near)}")


def check(plan: Plan, params: PyTree, *, small: bool = False) -> None:
    """Refuse parameters that are not those of the plan.

    Args:
        plan: the plan.
        params: arrays or shapes.
        small: whether they should have been cut already.

    Raises:
        ValueError: names the first difference.
    """
    given = {path: tuple(np.shape(leaf)) for path, leaf in paths.flatten(params).items()}
    for path in plan.shapes:
        if path not in given:
            raise ValueError(f"the plan is for another model: it has {path!r}, the params do not")
        expected = plan.small_shape(path) if small else plan.shapes[path]
        if given[path] != expected:
            raise ValueError(
                f"the plan is for another model: {path!r} should have shape {expected} "
                f"{'after' if small else 'before'} the cut, not {given[path]}"
            )
    for path in given:
        if path not in plan.shapes:
            raise ValueError(f"the plan is for another model: the params have {path!r}, it has not")


def shrink(plan: Plan, tree: PyTree) -> PyTree:
    """Cut every leaf of `tree` that stands for a parameter; other leaves are unchanged.

    A leaf stands for the parameter whose path its own path ends in: parameters themselves, their
    moments in an optimizer's state, their moving average. Works on shapes as on arrays.

    Raises:
        ValueError: such a leaf has not the original parameter's shape, nor a single entry.
    """
    return paths.map_with_path(lambda path, leaf: _shrunk(plan, path, leaf), tree)


def _shrunk(plan: Plan, path: str, leaf: Any) -> Any:
    name = _parameter(plan, path)
    if name is None or name not in plan.indices or math.prod(np.shape(leaf)) == 1:
        return leaf
    if tuple(leaf.shape) != plan.shapes[name]:
        raise ValueError(
            f"{path!r} stands for the parameter {name!r} of shape {plan.shapes[name]} but has "
            f"shape {tuple(leaf.shape)}; cut it before the state is made from it"
        )
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(plan.small_shape(name), leaf.dtype)
    for dim, kept in enumerate(plan.indices[name]):
        if kept is not None:
            leaf = leaf.take(kept, axis=dim)
    return leaf


def mask(plan: Plan, params: PyTree) -> PyTree:
    """The parameters with zeros where the plan removes entries; shapes stay.

    Raises:
        ValueError: `params` are not those of the plan.
    """
    check(plan, params)

    def masked(path: str, leaf: Any) -> Any:
        for dim, kept in enumerate(plan.indices.get(path, ())):
            if kept is not None:
                stays = np.zeros(leaf.shape[dim], bool)
                stays[kept] = True
                stays = stays.reshape([-1 if d == dim else 1 for d in range(leaf.ndim)])
                where = np.where if isinstance(leaf, np.ndarray) else jnp.where
                leaf = where(stays, leaf, np.zeros((), leaf.dtype))
        return leaf

    return paths.map_with_path(masked, params)


def _parameter(plan: Plan, path: str) -> str | None:
    """The longest parameter path that `path` ends in."""
    parts = path.split("/")
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((ending for ending in endings if ending in plan.shapes), None)


def _layout(axis: Axis, names: Mapping[Axis, str]) -> Layout:
    axis = axis.find()
    if axis.kind == "atom":
        return names.get(axis, axis.size)
    sign, parts = ("*", axes.factors(axis)) if axis.kind == "product" else ("+", axes.terms(axis))
    entries = tuple(_layout(part, names) for part in parts)
    if all(isinstance(entry, int) for entry in entries):
        return axis.size
    return (sign, *entries)


def _axis(layout: Layout, atoms: Mapping[str, Axis]) -> Axis:
    if isinstance(layout, int):
        return axes.atom(layout)
    if isinstance(layout, str):
        return atoms[layout]
    parts = (_axis(each, atoms) for each in layout[1:])
    return axes.product(*parts) if layout[0] == "*" else axes.total(*parts)


def _hash(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

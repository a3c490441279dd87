"""Groups: the sets of parameter dimensions that must be cut together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slim.graph import axes
from slim.graph.axes import Axis
from slim.graph.infer import Inferred, infer
from slim.graph.neutral import freeze_losses
from slim.graph.rules.scope import Scope
from slim.graph.trace import Graph


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of one parameter that a group runs along.

    Attributes:
        path: the parameter's path.
        dim: the dimension.
        index: `(group size, repeats)` integers; row i lists the positions along the dimension
            that index i of the group occupies. One column where the dimension is the group;
            several where it is a product (a head's whole width) or the group occurs more than
            once (both halves of a rotary embedding).
    """

    path: str
    dim: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Indices that are removed everywhere at once, or nowhere.

    Attributes:
        name: `path:dim` of a member that makes it (a kernel's output where there is one), with
            `.k` where the k-th of several atoms of that dimension is meant. Stable for a model.
        size: how many indices it has.
        members: every parameter dimension that it runs along, in the parameters' order.
        frozen: why nothing of it may be removed; empty for a group that may be cut.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Analysis:
    """A graph's axes with its groups.

    Attributes:
        inferred: the axes.
        groups: the groups that may be cut, by name.
        names: the group of each atom that may be cut.
        frozen: the others that reach a parameter.
    """

    inferred: Inferred
    groups: Mapping[str, Group]
    names: Mapping[Axis, str]
    frozen: tuple[Group, ...]


def groups(graph: Graph) -> tuple[Group, ...]:
    """The groups that may be cut, in the order of the parameters.

    >>> import jax
    >>> from slim.graph import trace
    >>> shape = jax.ShapeDtypeStruct
    >>> params = {"up": shape((3, 8), "float32"), "down": shape((8, 2), "float32")}
    >>> graph = trace(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], params,
    ...               shape((5, 3), "float32"))
    >>> [(g.name, g.size, [(m.path, m.dim) for m in g.members]) for g in groups(graph)]
    [('up:1', 8, [('down', 0), ('up', 1)])]
    """
    return tuple(analyse(graph).groups.values())


def frozen_groups(graph: Graph) -> tuple[Group, ...]:
    """The parameters' axes that may not be cut, each with the reasons why."""
    return analyse(graph).frozen


def analyse(graph: Graph) -> Analysis:
    """Both passes over a graph, and its groups."""
    inferred = infer(graph)
    freeze_losses(inferred)
    members: dict[Axis, list[tuple[Member, int]]] = {}
    for path, dims in inferred.params.items():
        for d, axis in enumerate(dims):
            order = list(dict.fromkeys(axes.leaves(axis)))
            for k, leaf in enumerate(order):
                index = positions(axis, leaf)
                members.setdefault(leaf, []).append((Member(path, d, index), k))
    _freeze_unread(inferred.scope, [leaf for leaf, each in members.items() if len(each) == 1])
    alone = {
        (path, d): len(set(axes.leaves(axis))) == 1
        for path, dims in inferred.params.items()
        for d, axis in enumerate(dims)
    }
    found, names, frozen = {}, {}, []
    for leaf, each in members.items():
        maker, k = _maker(each)
        name = f"{maker.path}:{maker.dim}" + ("" if alone[maker.path, maker.dim] else f".{k}")
        group = Group(
            name,
            leaf.size,
            tuple(member for member, _ in each),
            tuple(dict.fromkeys(reason() for reason in leaf.reasons)),
        )
        if leaf.reasons:
            frozen.append(group)
        else:
            found[name] = group
            names[leaf] = name
    return Analysis(inferred, found, names, tuple(frozen))


def _freeze_unread(scope: Scope, leaves: Sequence[Axis]) -> None:
    """Freeze what the function does not use: the rest of a table of positions, another's head."""
    unread = {leaf for leaf in leaves if not leaf.reasons}
    if unread:
        unread -= {leaf for dims in scope.outs for axis in dims for leaf in axes.leaves(axis)}
        for leaf in unread - _consumed(scope):
            axes.freeze(leaf, lambda: "the function does not use it")


def _consumed(scope: Scope) -> set[Axis]:
    """The atoms that some equation takes and does not give on, other than by cutting them off."""
    found = set()
    for i, eqn in enumerate(scope.jaxpr.eqns):
        for inner in scope.inner.get(i, ()):
            found |= _consumed(inner)
        if i not in scope.inner and eqn.primitive.name not in ("slice", "split"):
            taken, given = (
                {leaf for var in each for axis in scope.of(var) for leaf in axes.leaves(axis)}
                for each in (eqn.invars, eqn.outvars)
            )
            found |= taken - given
    return found


def _maker(members: list[tuple[Member, int]]) -> tuple[Member, int]:
    """The member that most likely makes the group's values: outputs are a kernel's last dims."""
    return max(members, key=lambda item: item[0].dim)


def positions(axis: Axis, leaf: Axis) -> np.ndarray:
    """Where each index of an atom lies along an axis: `(atom size, repeats)`, ascending in rows."""
    columns = []
    for along in _occurrences(axis, leaf):
        order = np.argsort(along, kind="stable")
        columns.append(order[np.count_nonzero(along < 0) :].reshape(leaf.size, -1))
    return np.sort(np.concatenate(columns, axis=1), axis=1)


def _occurrences(axis: Axis, leaf: Axis) -> Iterator[np.ndarray]:
    """For each occurrence of `leaf`, its index at every position of `axis`; -1 where it is not."""
    axis = axis.find()
    if axis is leaf:
        yield np.arange(axis.size)
    start = 0
    for i, part in enumerate(axis.parts):
        for along in _occurrences(part, leaf):
            if axis.kind == "sum":
                whole = np.full(axis.size, -1)
                whole[start : start + part.size] = along
                yield whole
            else:
                outer = int(np.prod([p.size for p in axis.parts[:i]], dtype=int))
                inner = axis.size // (outer * part.size)
                yield np.tile(np.repeat(along, inner), outer)
        start += part.size

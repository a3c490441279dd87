"""Changes of layout: the same entries in other places."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from slim.graph import axes
from slim.graph.axes import Axis, Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed, carried, unknown
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Resize, Step, bind, fresh, shape_of


def broadcast_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """An operand's dimension keeps its axis where it keeps its size; others are new."""
    out = list(fresh(shape_of(eqn.outvars[0])))
    for axis, d in zip(ins[0], eqn.params["broadcast_dimensions"], strict=True):
        if axis.size == out[d].size:
            out[d] = axis
    return [tuple(out)]


def broadcast_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Broadcast to the small shape."""
    return bind(step.eqn, args, shape=resize.kept.shape(step.outs[0]))


def reshape_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Runs of dimensions of one size are factorings of one product, refined until they agree.

    Where a run cannot be (chunks of a concatenation), it is frozen, and the others are not.
    """
    shape, sizes = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if 0 in sizes:
        flow.freeze(ins[0], "it has no entries")
        return [fresh(sizes)]
    out: list[Axis] = []
    for before, after in _runs(shape, sizes):
        rest = axes.product(*ins[0][before])
        made: list[Axis] = []
        for size in sizes[after]:
            halves = axes.split_product(rest, size)
            if halves is None:
                why = f"{shape[before]} and {sizes[after]} have no common factors in order"
                flow.freeze([*ins[0][before], *made], why)
                made = [flow.frozen(n, why) for n in sizes[after]]
                break
            made.append(halves[0])
            rest = halves[1]
        out += made
    return [tuple(out)]


def _runs(shape: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """The shortest runs of dimensions of two shapes that have as many entries, in order."""
    i = j = 0
    while i < len(shape) or j < len(sizes):
        first, second = i, j
        entries = others = 1
        while (i, j) == (first, second) or entries != others:
            if j == len(sizes) or (i < len(shape) and entries <= others):
                entries *= shape[i]
                i += 1
            else:
                others *= sizes[j]
                j += 1
        yield slice(first, i), slice(second, j)


def reshape_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Reshape to the small sizes."""
    return bind(step.eqn, args, new_sizes=resize.kept.shape(step.outs[0]))


def transpose_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Axes move with their dimensions."""
    return [tuple(ins[0][d] for d in eqn.params["permutation"])]


def transposed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What is known moves with its dimension."""
    source = {d: i for i, d in enumerate(step.params["permutation"])}
    at = {(source[d], leaf): value for (d, leaf), value in known[0].at.items()}
    return [Known(known[0].everywhere, at)]


def squeeze_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Dimensions of size 1 go."""
    gone = {d % len(ins[0]) for d in eqn.params["dimensions"]}
    return [tuple(axis for d, axis in enumerate(ins[0]) if d not in gone)]


def rev_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """What is reversed is frozen: one axis cannot be cut at both ends alike."""
    flow.freeze([ins[0][d] for d in eqn.params["dimensions"]], "it reverses the axis")
    return [ins[0]]


def tile_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """A dimension repeated r times is the product of r and itself."""
    reps: Sequence[int] = eqn.params["reps"]
    return [
        tuple(
            axis if rep == 1 else axes.product(axes.atom(int(rep)), axis)
            for axis, rep in zip(ins[0], reps, strict=True)
        )
    ]


def tile_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Repeat the small operand."""
    reps = tuple(
        resize.kept.size(out) // max(1, resize.kept.size(axis))
        for axis, out in zip(step.ins[0], step.outs[0], strict=True)
    )
    return bind(step.eqn, args, reps=reps)


def iota_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Every dimension is new."""
    return [fresh(shape_of(eqn.outvars[0]))]


def iota_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Count at the small shape; along a cut axis, the kept indices' own numbers."""
    out, d = step.outs[0], step.params["dimension"]
    kept, shape = resize.kept(out[d]), resize.kept.shape(out)
    if kept is None:
        return bind(step.eqn, args, shape=shape)
    column = np.asarray(kept, step.params["dtype"]).reshape(
        [-1 if i == d else 1 for i in range(len(shape))]
    )
    return [jnp.broadcast_to(column, shape)]


RULES = {
    "broadcast_in_dim": Rule(broadcast_axes, carried, broadcast_replay),
    "reshape": Rule(reshape_axes, carried, reshape_replay),
    "transpose": Rule(transpose_axes, transposed, unchanged),
    "squeeze": Rule(squeeze_axes, carried, unchanged),
    "rev": Rule(rev_axes, carried, unchanged),
    "tile": Rule(tile_axes, carried, tile_replay),
    "iota": Rule(iota_axes, unknown, iota_replay),
    "empty": Rule(iota_axes, unknown, broadcast_replay),
}

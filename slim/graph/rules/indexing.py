"""Reading and writing at indices that are data: what is indexed is frozen, windows pass through."""

from typing import Any

from jax.extend.core import JaxprEqn

from slim.graph.axes import Axis, Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed, agreed, carried
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Resize, Step, bind, shape_of

WHY = "its indices are data"


def _window(flow: Flow, axis: Axis, size: int) -> Axis:
    """A window as wide as the axis is the axis; a narrower one freezes it."""
    if size == axis.size:
        return axis
    flow.freeze([axis], WHY)
    return flow.frozen(size, WHY)


def dynamic_slice_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Dimensions sliced whole pass through."""
    sizes = eqn.params["slice_sizes"]
    return [tuple(_window(flow, axis, size) for axis, size in zip(ins[0], sizes, strict=True))]


def dynamic_slice_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Slice the small sizes."""
    return bind(step.eqn, args, slice_sizes=resize.kept.shape(step.outs[0]))


def dynamic_slice_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Entries are the operand's, whatever the start."""
    whole = Step(step.eqn, step.ins[:1], step.outs, step.inner)
    return carried(removed, whole, known[:1])


def update_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Dimensions updated whole are shared; others are frozen."""
    for axis, update in zip(ins[0], ins[1], strict=True):
        if axis.size == update.size:
            flow.unify(axis, update)
        else:
            flow.freeze([axis, update], WHY)
    return [ins[0]]


def update_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Known where the operand and the update hold one number."""
    return [_both(removed, step.outs[0], known[0], known[1])]


def _both(removed: Removed, dims: Dims, a: Known, b: Known) -> Known:
    at = {}
    for d, leaf in removed.places(dims):
        value = agreed([a.get(d, leaf), b.get(d, leaf)])
        if value is not None:
            at[d, leaf] = value
    return Known(agreed([a.everywhere, b.everywhere]), at)


def gather_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Windows first in order, then the dimensions of the indices."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    operand, indices = ins
    flow.freeze([operand[d] for d in numbers.collapsed_slice_dims], WHY)
    flow.unify_all(
        [operand[d] for d in numbers.operand_batching_dims],
        [indices[d] for d in numbers.start_indices_batching_dims],
    )
    windows = iter(_window(flow, operand[d], int(sizes[d])) for d in _gather_windows(eqn))
    batch = iter(indices[:-1])
    rank = len(shape_of(eqn.outvars[0]))
    return [tuple(next(windows) if d in numbers.offset_dims else next(batch) for d in range(rank))]


def _gather_windows(eqn: JaxprEqn) -> list[int]:
    numbers = eqn.params["dimension_numbers"]
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    return [d for d in range(len(shape_of(eqn.invars[0]))) if d not in dropped]


def gather_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Gather windows of the small sizes."""
    sizes = list(step.params["slice_sizes"])
    for d in _gather_windows(step.eqn):
        if sizes[d] == step.ins[0][d].size:
            sizes[d] = resize.kept.size(step.ins[0][d])
    return bind(step.eqn, args, slice_sizes=tuple(sizes))


def gathered(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """A window holds what the operand holds, unless what fills a missing one differs.

    Windows filled with NaN are NaN in every entry, kept or not, so they decide nothing.
    """
    numbers, fill = step.params["dimension_numbers"], step.params["fill_value"]
    source = dict(zip(numbers.offset_dims, _gather_windows(step.eqn), strict=True))
    at = {}
    for d, leaf in removed.places(step.outs[0]):
        value = known[0].get(source[d], leaf) if d in source else known[0].everywhere
        if value is not None and (fill is None or fill != fill or fill == value):
            at[d, leaf] = value
    return [Known(None, at)]


def scatter_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Windows as wide as the operand are shared; what is scattered over is frozen."""
    numbers = eqn.params["dimension_numbers"]
    operand, indices, updates = ins
    flow.freeze([operand[d] for d in numbers.inserted_window_dims], WHY)
    flow.unify_all(
        [operand[d] for d in numbers.operand_batching_dims],
        [indices[d] for d in numbers.scatter_indices_batching_dims],
    )
    for d, u in _scatter_windows(eqn).items():
        if operand[d].size == updates[u].size:
            flow.unify(operand[d], updates[u])
        else:
            flow.freeze([operand[d], updates[u]], WHY)
    batch = [u for u in range(len(updates)) if u not in numbers.update_window_dims]
    flow.unify_all([updates[u] for u in batch], indices[:-1])
    return [operand]


def _scatter_windows(eqn: JaxprEqn) -> dict[int, int]:
    """The dimension of the updates for each window dimension of the operand."""
    numbers = eqn.params["dimension_numbers"]
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [d for d in range(len(shape_of(eqn.invars[0]))) if d not in dropped]
    return dict(zip(windows, numbers.update_window_dims, strict=True))


def scattered(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Known where operand and updates hold one number that combining does not change.

    Removing whole updates loses nothing where they change nothing.
    """
    name = step.eqn.primitive.name.replace("_", "-")
    operand, _, updates = known
    windows = _scatter_windows(step.eqn)
    for u in set(range(len(step.ins[2]))) - set(windows.values()):
        for leaf in removed.alive(step.ins[2][u]):
            value = updates.get(u, leaf)
            if value is None or value != NEUTRAL.get(name, operand.everywhere):
                removed.forbid(leaf, "it would lose removed updates that change its operand")
    at = {}
    for d, leaf in removed.places(step.outs[0]):
        if d in windows:
            value = agreed([operand.get(d, leaf), updates.get(windows[d], leaf)])
            if value is not None and (value == 0 or name in KEEPS_ANY):
                at[d, leaf] = value
    return [Known(None, at)]


# One number put on itself stays: a maximum of it twice, say, and not a sum.
KEEPS_ANY = ("scatter", "scatter-min", "scatter-max")

# What an update changes nothing by; one that is put in place, by being what is there.
NEUTRAL = {
    "scatter-add": 0.0,
    "scatter-sub": 0.0,
    "scatter-mul": 1.0,
    "scatter-min": float("inf"),
    "scatter-max": float("-inf"),
}

SCATTERS = (
    *("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"),
    *("scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max"),
)

RULES = {
    "dynamic_slice": Rule(dynamic_slice_axes, dynamic_slice_removed, dynamic_slice_replay),
    "dynamic_update_slice": Rule(update_axes, update_removed, unchanged),
    "gather": Rule(gather_axes, gathered, gather_replay),
    **{name: Rule(scatter_axes, scattered, unchanged) for name in SCATTERS},
}

"""Ranges of an axis: joined, cut out, padded. An axis made of ranges is their sum."""

from typing import Any

from jax.extend.core import JaxprEqn

from slim.graph import axes
from slim.graph.axes import Axis, Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed, agreed, carried, carry
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Resize, Step, bind, fresh, shape_of


def concatenate_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The joined dimension is the sum of the operands'; the others are shared."""
    joined = eqn.params["dimension"]
    out = list(ins[0])
    for dims in ins[1:]:
        for d, axis in enumerate(dims):
            if d != joined:
                flow.unify(out[d], axis)
    out[joined] = axes.total(*(dims[joined] for dims in ins))
    return [tuple(out)]


def concatenated(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Along the joined dimension an atom's indices come from the operands that have it."""
    joined = step.params["dimension"]
    at = {}
    for d, leaf in removed.places(step.outs[0]):
        holding = [
            each
            for each, dims in zip(known, step.ins, strict=True)
            if d != joined or leaf in axes.leaves(dims[d])
        ]
        value = agreed(each.get(d, leaf) for each in holding)
        if value is not None:
            at[d, leaf] = value
    return [Known(agreed(each.everywhere for each in known), at)]


def stack_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Operands share their axes; the stacking dimension is new."""
    for dims in ins[1:]:
        flow.unify_all(ins[0], dims)
    d = eqn.params["axis"]
    return [(*ins[0][:d], flow.frozen(len(ins), "it counts what is stacked"), *ins[0][d:])]


def unstack_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The stacking dimension is taken apart."""
    d = eqn.params["axis"]
    flow.freeze([ins[0][d]], "each of its entries goes its own way")
    return [(*ins[0][:d], *ins[0][d + 1 :]) for _ in eqn.outvars]


def part(flow: Flow, axis: Axis, start: int, stop: int, where: str) -> Axis:
    """The indices `start` to `stop` of an axis, as an axis; frozen where it cannot be split."""
    if (start, stop) == (0, axis.size):
        return axis
    after = axes.split_sum(axis, start)
    middle = None if after is None else axes.split_sum(after[1], stop - start)
    if middle is None:
        flow.freeze([axis], where)
        return flow.frozen(stop - start, where)
    return middle[0]


def split_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The split dimension is the sum of the results'."""
    d = eqn.params["axis"]
    outs, start = [], 0
    for size in map(int, eqn.params["sizes"]):
        axis = part(flow, ins[0][d], start, start + size, "it splits within an entry")
        outs.append((*ins[0][:d], axis, *ins[0][d + 1 :]))
        start += size
    return outs


def split_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Split at the small sizes."""
    d = step.params["axis"]
    return bind(step.eqn, args, sizes=tuple(resize.kept.size(dims[d]) for dims in step.outs))


def slice_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """A range is a term of a sum; every k-th index is a factor of a product."""
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    sizes = shape_of(eqn.outvars[0])
    out = []
    for axis, start, limit, stride, size in zip(
        ins[0], starts, limits, strides, sizes, strict=True
    ):
        if stride == 1:
            out.append(part(flow, axis, int(start), int(limit), "it slices within an entry"))
            continue
        halves = axes.split_product(axis, size) if size * stride == axis.size else None
        if halves is None or start >= stride:
            flow.freeze([axis], f"it takes every {stride}th index")
            out.append(flow.frozen(size, f"it takes every {stride}th index"))
        else:
            flow.freeze([halves[1]], f"it takes every {stride}th index")
            out.append(halves[0])
    return [tuple(out)]


def slice_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Slice the kept indices that were in the range."""
    strides = step.params["strides"] or (1,) * len(step.ins[0])
    starts, limits = [], []
    for axis, out, start, stride in zip(
        step.ins[0], step.outs[0], step.params["start_indices"], strides, strict=True
    ):
        # With a stride the start lies within the first entry, whichever entry that now is.
        first = int(start) if stride > 1 else resize.kept.below(axis, int(start))
        starts.append(first)
        limits.append(first + (resize.kept.size(out) - 1) * stride + 1)
    return bind(step.eqn, args, start_indices=tuple(starts), limit_indices=tuple(limits))


def pad_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """A padded dimension is the sum of the padding, what is left of the operand's, and padding."""
    out = []
    for axis, (low, high, interior) in zip(ins[0], eqn.params["padding_config"], strict=True):
        if interior and axis.size > 1:
            size = axis.size + int(low) + int(high) + (axis.size - 1) * int(interior)
            flow.freeze([axis], "it pads between entries")
            out.append(flow.frozen(size, "it pads between entries"))
            continue
        inside = part(
            flow, axis, max(0, -int(low)), axis.size - max(0, -int(high)), "it crops an entry"
        )
        out.append(axes.total(*fresh([max(0, int(low))]), inside, *fresh([max(0, int(high))])))
    return [tuple(out)]


def pad_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Pad and crop by as many indices as are kept of the padding and of what is cropped."""
    config = []
    for axis, out, (low, high, interior) in zip(
        step.ins[0], step.outs[0], step.params["padding_config"], strict=True
    ):
        if resize.kept(axis) is None and resize.kept(out) is None:
            config.append((low, high, interior))
            continue
        kept = resize.kept
        before = kept.below(out, low) if low >= 0 else -kept.below(axis, -low)
        if high >= 0:
            after = kept.size(out) - kept.below(out, out.size - high)
        else:
            after = kept.below(axis, axis.size + high) - kept.size(axis)
        config.append((before, after, interior))
    return bind(step.eqn, args, padding_config=tuple(config))


def padded(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Removed indices hold the operand's number, or the padding's, or one that is both."""
    operand, padding = known
    pads = any(
        low > 0 or high > 0 or between for low, high, between in step.params["padding_config"]
    )
    sources = [(operand, step.ins[0]), (padding, ())] if pads else [(operand, step.ins[0])]
    result = carry(removed, step.outs[0], sources)
    at = dict(result.at)
    for d, leaf in removed.places(step.outs[0]):
        # Where the atom is padding alone, the operand is not there at all.
        alone = not any(leaf in axes.leaves(axis) for axis in step.ins[0])
        if alone and padding.everywhere is not None:
            at[d, leaf] = padding.everywhere
    return [Known(result.everywhere, at)]


RULES = {
    "concatenate": Rule(concatenate_axes, concatenated, unchanged),
    "stack": Rule(stack_axes, carried, unchanged),
    "unstack": Rule(unstack_axes, carried, unchanged),
    "split": Rule(split_axes, carried, split_replay),
    "slice": Rule(slice_axes, carried, slice_replay),
    "pad": Rule(pad_axes, padded, pad_replay),
}

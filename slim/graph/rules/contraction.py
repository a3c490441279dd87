"""Products summed over an axis: matrix products and convolutions."""

from collections.abc import Iterable
from typing import Any

from jax.extend.core import JaxprEqn

from slim.graph import axes
from slim.graph.axes import Axis, Dims, Leaf
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Resize, Step, bind, shape_of


def sums_products(
    removed: Removed, left: tuple[Known, int], right: tuple[Known, int], leaves: Iterable[Leaf]
) -> None:
    """Freeze the atoms over which a sum of products would lose more than zeros."""
    for leaf in leaves:
        if left[0].get(left[1], leaf) != 0 and right[0].get(right[1], leaf) != 0:
            removed.forbid(leaf, "it sums over removed entries that are not zero")


def zeros(removed: Removed, dims: Dims, sources: list[list[tuple[Known, int]]]) -> Known:
    """Where a product is zero because one of the factors that vary along the dimension is."""
    at = {
        (d, leaf): 0.0
        for d, leaf in removed.places(dims)
        if any(known.get(i, leaf) == 0 for known, i in sources[d])
    }
    return Known(None, at)


def dot_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Contracted with contracted, batch with batch; the rest is the result's."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    lhs, rhs = ins
    flow.unify_all([lhs[d] for d in lhs_contract], [rhs[d] for d in rhs_contract])
    flow.unify_all([lhs[d] for d in lhs_batch], [rhs[d] for d in rhs_batch])
    return [
        (
            *(lhs[d] for d in lhs_batch),
            *(axis for d, axis in enumerate(lhs) if d not in (*lhs_contract, *lhs_batch)),
            *(axis for d, axis in enumerate(rhs) if d not in (*rhs_contract, *rhs_batch)),
        )
    ]


def dot_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Contracted axes need a zero factor; a result is zero where a factor is."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = step.params["dimension_numbers"]
    lhs, rhs = known
    for i, j in zip(lhs_contract, rhs_contract, strict=True):
        leaves = removed.alive(step.ins[0][i])
        sums_products(removed, (lhs, i), (rhs, j), leaves)
    sources = [[(lhs, i), (rhs, j)] for i, j in zip(lhs_batch, rhs_batch, strict=True)]
    for each, dims, used in (
        (lhs, step.ins[0], (*lhs_contract, *lhs_batch)),
        (rhs, step.ins[1], (*rhs_contract, *rhs_batch)),
    ):
        sources += [[(each, d)] for d in range(len(dims)) if d not in used]
    return [zeros(removed, step.outs[0], sources)]


def ragged_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Rows in runs, one matrix per run: the rows and the runs are data, the rest is a product."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = numbers.dot_dimension_numbers
    lhs, rhs, sizes = ins
    ragged, group = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    flow.unify_all([lhs[d] for d in lhs_contract], [rhs[d] for d in rhs_contract])
    flow.unify_all([lhs[d] for d in lhs_batch], [rhs[d] for d in rhs_batch])
    flow.freeze([*(lhs[d] for d in ragged), *(rhs[d] for d in group)], "its group sizes are data")
    flow.freeze(sizes, "its group sizes are data")
    free = [
        *(lhs[d] for d in lhs_batch),
        *(axis for d, axis in enumerate(lhs) if d not in (*lhs_contract, *lhs_batch)),
        *(axis for d, axis in enumerate(rhs) if d not in (*rhs_contract, *rhs_batch, *group)),
    ]
    if not group:  # Runs along the contracted rows: the result has one matrix per run.
        runs = shape_of(eqn.outvars[0])[0]
        free.insert(0, flow.frozen(runs, "its group sizes are data"))
    return [tuple(free)]


def ragged_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """As a matrix product, run by run."""
    numbers = step.params["ragged_dot_dimension_numbers"]
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = numbers.dot_dimension_numbers
    lhs, rhs = known[:2]
    for i, j in zip(lhs_contract, rhs_contract, strict=True):
        sums_products(removed, (lhs, i), (rhs, j), removed.alive(step.ins[0][i]))
    sources: list[list[tuple[Known, int]]] = [] if numbers.rhs_group_dimensions else [[]]
    sources += [[(lhs, i), (rhs, j)] for i, j in zip(lhs_batch, rhs_batch, strict=True)]
    rhs_used = (*rhs_contract, *rhs_batch, *numbers.rhs_group_dimensions)
    for each, dims, used in (
        (lhs, step.ins[0], (*lhs_contract, *lhs_batch)),
        (rhs, step.ins[1], rhs_used),
    ):
        sources += [[(each, d)] for d in range(len(dims)) if d not in used]
    return [zeros(removed, step.outs[0], sources)]


def _channels(eqn: JaxprEqn) -> tuple[int, int, int]:
    """The channel dimension of the input, and the kernel's input and output dimensions."""
    numbers = eqn.params["dimension_numbers"]
    return numbers.lhs_spec[1], numbers.rhs_spec[1], numbers.rhs_spec[0]


def conv_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Channels are contracted; in G groups, input and output channels are G times the rest.

    Group g of the output sees group g of the input alone, so the G of both is one axis: removing
    an index of it removes whole groups.
    """
    lhs, rhs = ins
    numbers = eqn.params["dimension_numbers"]
    channel, kernel_in, kernel_out = _channels(eqn)
    why = "it slides a window along the axis"
    flow.freeze([lhs[d] for d in numbers.lhs_spec[2:]], why)
    flow.freeze([rhs[d] for d in numbers.rhs_spec[2:]], why)
    groups = int(eqn.params["feature_group_count"])
    sizes = shape_of(eqn.outvars[0])
    out: list[Axis] = [axes.atom(size) for size in sizes]
    for d in numbers.out_spec[2:]:
        flow.freeze([out[d]], why)
    if eqn.params["batch_group_count"] != 1:
        flow.freeze([*lhs, *rhs, *out], "it groups the batch")
        return [tuple(out)]
    if groups == 1:
        flow.unify(lhs[channel], rhs[kernel_in])
    else:
        split = "its groups do not line up with how its channels were made"
        inputs = axes.split_product(lhs[channel], groups)
        outputs = axes.split_product(rhs[kernel_out], groups)
        if inputs is None or outputs is None:
            flow.freeze([lhs[channel], rhs[kernel_in], rhs[kernel_out]], split)
        else:
            flow.unify(inputs[0], outputs[0])
            flow.unify(inputs[1], rhs[kernel_in])
    out[numbers.out_spec[0]] = lhs[numbers.lhs_spec[0]]
    out[numbers.out_spec[1]] = rhs[kernel_out]
    return [tuple(out)]


def conv_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """The kernel's inputs need a zero factor; a channel is zero where its filter or group is."""
    channel, kernel_in, kernel_out = _channels(step.eqn)
    numbers = step.params["dimension_numbers"]
    lhs, rhs = known
    sums_products(removed, (lhs, channel), (rhs, kernel_in), removed.alive(step.ins[1][kernel_in]))
    sources: list[list[tuple[Known, int]]] = [[] for _ in step.outs[0]]
    sources[numbers.out_spec[0]] = [(lhs, numbers.lhs_spec[0])]
    sources[numbers.out_spec[1]] = [(rhs, kernel_out)]
    if step.params["feature_group_count"] != 1:
        contracted = axes.leaves(step.ins[1][kernel_in])
        grouped = {
            (channel, leaf): value
            for (d, leaf), value in lhs.at.items()
            if d == channel and leaf not in contracted
        }
        sources[numbers.out_spec[1]].append((Known(None, grouped), channel))
    return [zeros(removed, step.outs[0], sources)]


def conv_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """As many groups as are left."""
    channel, kernel_in, _ = _channels(step.eqn)
    groups = step.params["feature_group_count"]
    if groups != 1:
        groups = args[0].shape[channel] // args[1].shape[kernel_in]
    return bind(step.eqn, args, feature_group_count=groups)


RULES = {
    "dot_general": Rule(dot_axes, dot_removed, unchanged),
    "ragged_dot_general": Rule(ragged_axes, ragged_removed, unchanged),
    "conv_general_dilated": Rule(conv_axes, conv_removed, conv_replay),
}

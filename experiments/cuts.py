"""What makes a network smaller than its config says: cuts of its widths, its depth and its bits.

Each kind knows how variables, and functions of them, change; a network that was cut several times
is its functions cut by each in turn.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from slim import graph
from slim.graph import Folding, Graph, Plan
from slim.prune import DepthPlan, drop_blocks, drop_params
from slim.quant import Quantization, execute, restore

PyTree = Any

Cut = Plan | DepthPlan | Folding | Quantization
"""Channels, heads and hidden units; whole residual blocks; norms, folded into the products before
them; floats, after which nothing else can be cut."""

KINDS: Mapping[str, Callable[[str], Cut]] = {
    kind.KIND: kind.from_json for kind in (DepthPlan, Folding, Quantization)
}


def shrink(cut: Plan | DepthPlan, tree: PyTree) -> PyTree:
    """Variables, masks or shapes after the cut; dicts lose the entries of what was left out."""
    if isinstance(cut, Plan):
        return graph.shrink(cut, tree)
    return _without_none(drop_params(cut.blocks, tree))


def apply(cut: Cut, variables: PyTree, before: Callable[[], Graph]) -> PyTree:
    """Variables after the cut.

    Args:
        cut: what to cut.
        variables: of the network before it.
        before: gives that network's graph.

    Raises:
        ValueError: of a quantization, which takes calibration.
    """
    if isinstance(cut, Quantization):
        raise ValueError("a quantized network's variables follow from its calibration alone")
    if isinstance(cut, Folding):
        return graph.fold_params(before(), cut, variables)
    return shrink(cut, variables)


def replay(traced: Graph, cut: Cut, *, integers: bool = True) -> Callable[..., Any]:
    """The function of a graph, for the variables after the cut.

    Args:
        traced: the function before it.
        cut: what to cut.
        integers: where it is quantized, whether products are of integers; else the same in floats.

    Raises:
        ValueError: the cut is of another model.
    """
    if isinstance(cut, Plan):
        return graph.replay(traced, cut)
    if isinstance(cut, Folding):
        return graph.folded(traced, cut)
    if isinstance(cut, Quantization):
        assigned = cut.on(traced)
        run = execute(traced, assigned, integers=integers)
        return lambda variables, *inputs: run(restore(assigned, variables), *inputs)
    small = drop_blocks(traced, [block.name for block in cut.blocks])
    return lambda *args: _without_none(small(*args))


def from_json(text: str) -> Cut:
    """The cut whose `to_json` gave the text.

    Raises:
        ValueError: it is none.
    """
    return KINDS.get(json.loads(text).get("kind"), Plan.from_json)(text)


def _without_none(tree: PyTree) -> PyTree:
    """Nested dicts, perhaps in a tuple, without the entries that are None or have nothing else."""
    if isinstance(tree, tuple):
        return tuple(map(_without_none, tree))
    if not isinstance(tree, dict):
        return tree
    entries = {name: _without_none(entry) for name, entry in tree.items()}
    return {
        name: entry
        for name, entry in entries.items()
        if entry is not None and not (isinstance(entry, dict) and not entry)
    }

"""What makes a network smaller than its config says: cuts of its widths, and of its depth.

Each kind knows how variables, and functions of them, shrink; a network that was cut several times
is its functions cut by each in turn.
"""

import json
from collections.abc import Callable
from typing import Any

from slim import graph
from slim.graph import Graph, Plan
from slim.prune import DepthPlan, drop_blocks, drop_params

PyTree = Any

Cut = Plan | DepthPlan
"""Channels, heads and hidden units; or whole residual blocks."""


def shrink(cut: Cut, tree: PyTree) -> PyTree:
    """Variables, masks or shapes after the cut; dicts lose the entries of what was left out."""
    if isinstance(cut, Plan):
        return graph.shrink(cut, tree)
    return _without_none(drop_params(cut.blocks, tree))


def replay(traced: Graph, cut: Cut) -> Callable[..., Any]:
    """The function of a graph, for the variables that `shrink` gives.

    Raises:
        ValueError: the cut is of another model.
    """
    if isinstance(cut, Plan):
        return graph.replay(traced, cut)
    small = drop_blocks(traced, [block.name for block in cut.blocks])
    return lambda *args: _without_none(small(*args))


def from_json(text: str) -> Cut:
    """The cut whose `to_json` gave the text.

    Raises:
        ValueError: it is none.
    """
    if json.loads(text).get("kind") == DepthPlan.KIND:
        return DepthPlan.from_json(text)
    return Plan.from_json(text)


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

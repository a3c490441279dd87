"""What makes a network smaller than its config says: cuts of widths, depth, experts and bits.

Each kind knows how variables, and functions of them, change; a network that was cut several times
is its functions cut by each in turn.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax

from slim import graph
from slim.dynamic import ExitPlan, NestedPlan
from slim.dynamic.exit_plan import with_fresh, without_exits
from slim.dynamic.nested_plan import without_own
from slim.graph import Folding, Graph, Plan
from slim.models.deepseek.compress import ExpertPlan
from slim.paths import without_none
from slim.prune import DepthPlan, drop_blocks, drop_params
from slim.quant import Quantization, execute, restore

PyTree = Any

Cut = Plan | DepthPlan | ExpertPlan | Folding | Quantization | ExitPlan | NestedPlan
"""Channels, heads and hidden units; whole residual blocks; experts, which go out of the module
(`Network.shrunk`); norms, folded into the products before them; floats, after which nothing else
can be cut; and what makes it smaller for some inputs, its exits, or at some times, its narrower
variants, after which nothing can be cut either."""

KINDS: Mapping[str, Callable[[str], Cut]] = {
    kind.KIND: kind.from_json
    for kind in (DepthPlan, ExpertPlan, Folding, Quantization, ExitPlan, NestedPlan)
}


def shrink(cut: Plan | DepthPlan, tree: PyTree) -> PyTree:
    """Variables, masks or shapes after the cut; dicts lose the entries of what was left out."""
    if isinstance(cut, Plan):
        return graph.shrink(cut, tree)
    return without_none(drop_params(cut.blocks, tree))


def apply(cut: Cut, variables: PyTree, before: Callable[[], Graph]) -> PyTree:
    """Variables after the cut.

    Args:
        cut: what to cut.
        variables: of the network before it.
        before: gives that network's graph.

    Raises:
        ValueError: of a quantization, which takes calibration, or of experts.
    """
    if isinstance(cut, ExpertPlan):
        raise _in_module()
    if isinstance(cut, Quantization):
        raise ValueError("a quantized network's variables follow from its calibration alone")
    if isinstance(cut, ExitPlan):
        return with_fresh(variables, cut.init(before(), jax.random.key(0)))
    if isinstance(cut, NestedPlan):
        return cut.with_own(variables)
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
        ValueError: the cut is of another model, or of experts.
    """
    if isinstance(cut, ExpertPlan):
        raise _in_module()
    if isinstance(cut, Plan):
        return graph.replay(traced, cut)
    if isinstance(cut, Folding):
        return graph.folded(traced, cut)
    if isinstance(cut, Quantization):
        assigned = cut.on(traced)
        run = execute(traced, assigned, integers=integers)
        return lambda variables, *inputs: run(restore(assigned, variables), *inputs)
    if isinstance(cut, ExitPlan | NestedPlan):
        whole = graph.tapped(traced, ())
        without = without_exits if isinstance(cut, ExitPlan) else without_own
        return lambda variables, *inputs: whole(without(variables), *inputs)[0]
    small = drop_blocks(traced, [block.name for block in cut.blocks])
    return lambda *args: without_none(small(*args))


def from_json(text: str) -> Cut:
    """The cut whose `to_json` gave the text.

    Raises:
        ValueError: it is none.
    """
    return KINDS.get(json.loads(text).get("kind"), Plan.from_json)(text)


def _in_module() -> ValueError:
    return ValueError("experts go out of the module itself: see Network.shrunk")

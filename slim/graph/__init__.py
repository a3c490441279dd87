"""Read and rewrite any JAX function of a parameter pytree, without naming its layers.

    graph = trace(fn, params, *inputs)      one jaxpr; every reading below starts from it
    cost(graph)                             MACs, FLOPs, bytes, parameters per site and in total
    sites(graph)                            which parameter feeds which contraction
    site_parameters(graph, params)          those parameters, as the contractions see them
    groups(graph)                           what must be cut together, and what of it there is
    frozen_groups(graph)                    what may not be cut, and why
    plan = make_plan(graph, {name: kept})   a choice of indices; a small JSON
    mask(plan, params)                      zeros at the removed entries, the same shapes
    shrink(plan, tree)                      small parameters, optimizer state, moving averages
    folding = find_folding(graph)           batch norms, scales that can go into the kernels
    fold_params(graph, folding, params)     the kernels with them, and biases
    fn = folded(graph, folding)             the function of those parameters
    fn = rewrite(graph, hook)               the function with other operations at chosen sites
    fn = tapped(graph, names)               the function, and values inside it that `taps` names
    segments = split(graph, names)          the function cut at such values, in parts
    small_fn = replay(graph, plan)          the function on the small parameters, equal to the
                                            original on the masked ones

`replay` also takes the graph of another function of the same parameters: a training loss.
"""

from slim.graph.cost import Cost, Row, cost
from slim.graph.fold import Folding, find_folding, fold_params, folded
from slim.graph.groups import Group, Member, frozen_groups, groups
from slim.graph.operands import site_parameters
from slim.graph.plan import Plan, check, make_plan, mask, shrink
from slim.graph.replay import replay
from slim.graph.rewrite import Contraction, Hook, rewrite
from slim.graph.sites import Site, equation, sites, used_elsewhere
from slim.graph.split import Segment, Segments, split, split_outputs
from slim.graph.taps import Tap, match, tapped, taps
from slim.graph.trace import Graph, trace

__all__ = [
    "Contraction",
    "Cost",
    "Folding",
    "Graph",
    "Group",
    "Hook",
    "Member",
    "Plan",
    "Row",
    "Segment",
    "Segments",
    "Site",
    "Tap",
    "check",
    "cost",
    "equation",
    "find_folding",
    "fold_params",
    "folded",
    "frozen_groups",
    "groups",
    "make_plan",
    "mask",
    "match",
    "replay",
    "rewrite",
    "shrink",
    "site_parameters",
    "sites",
    "split",
    "split_outputs",
    "tapped",
    "taps",
    "trace",
    "used_elsewhere",
]

"""One set of weights, several widths, each the beginning of the next wider one.

    nested = nest(graph, scores, [at_ratio(scores, keep) for keep in (1.0, 0.5, 0.25)])
    params = sort_units(nested, params)                   once: the most important units come first
    fn = replay(graph, nested.plans[1])
    fn(narrow(nested.plans[1], params), *inputs)          half as wide, slices of the same weights

Slimmable networks (Yu et al. 2019, arXiv:1812.08928) with units nested by importance, as in
Once-for-all (Cai et al. 2020, arXiv:1908.09791), and the training of universally slimmable ones (Yu
and Huang 2019, arXiv:1903.05134). The parameters exist once, whatever the number of widths; only
batch statistics are each width's own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim import paths
from slim.distill.losses.logits import soft_targets
from slim.graph import Graph, Plan, check, make_plan
from slim.graph.order import ordered_groups
from slim.graph.rules.kept import Kept
from slim.measure.classification import cross_entropy
from slim.prune.depth import Block, DepthPlan
from slim.prune.ratio import check_keep
from slim.prune.widths import NO_LIMITS, Limits, Scores, Widths

PyTree = Any


class Nested(NamedTuple):
    """Widths of one network.

    Attributes:
        order: of each group, its units from the most important to the least.
        plans: from the widest to the narrowest, of the network whose units are in that order: each
            keeps the first units of a group.
    """

    order: Mapping[str, np.ndarray]
    plans: tuple[Plan, ...]


def at_ratio(scores: Scores, keep: float, limits: Limits = NO_LIMITS) -> dict[str, int]:
    """The widths of all groups at one ratio, rounded up to what the limits allow.

    `slim.prune.fit_widths` at several targets gives widths for `nest` too.

    Raises:
        ValueError: a ratio outside (0, 1], limits that mean nothing.

    >>> at_ratio({"a": np.ones(8), "b": np.ones(3)}, 0.5, Limits(round_to=2))
    {'a': 4, 'b': 2}
    """
    check_keep(keep)
    limits.check("*")
    return {name: limits.width(round(keep * len(each)), len(each)) for name, each in scores.items()}


def nest(graph: Graph, scores: Scores, widths: Sequence[Widths]) -> Nested:
    """Plans whose units are nested: those that a narrower one keeps, a wider one keeps too.

    Args:
        graph: of the network.
        scores: of the units of each group that is to be cut; see `slim.prune.score_groups`.
        widths: of these groups, from the widest to the narrowest.

    Raises:
        ValueError: no widths, one that grows, a group without scores; a group whose units have an
            order of their own, so that they cannot be sorted; a group that may not be cut.
    """
    if not widths:
        raise ValueError("widths is empty: give those of at least one network")
    ordered = ordered_groups(graph)
    for name in scores:
        if name in ordered:
            raise ValueError(
                f"group {name!r} cannot be sorted by importance: {'; '.join(ordered[name])}; "
                "leave it out of the scores, and it stays whole"
            )
    for this, narrower in pairwise(widths):
        for name, width in narrower.items():
            if width > this.get(name, width):
                raise ValueError(
                    f"widths of group {name!r} grow from {this[name]} to {width}: give the "
                    "widest network first, and no group wider in a later one"
                )
    order = {
        name: np.argsort(-np.asarray(each, np.float64), kind="stable")
        for name, each in scores.items()
    }
    for name in {name for each in widths for name in each} - set(order):
        near = paths.nearest(name, order) or sorted(order)[:3]
        raise ValueError(f"widths has group {name!r}, which has no scores; nearest: {near}")
    plans = tuple(
        make_plan(graph, {name: np.arange(width) for name, width in each.items()})
        for each in widths
    )
    return Nested(order, plans)


def sort_units(nested: Nested, params: PyTree) -> PyTree:
    """The same function's parameters, with the units of each group in the order of importance.

    An optimizer's state is made from what this returns.

    Raises:
        ValueError: `params` are not those of the plans.
    """
    plan = nested.plans[0]
    check(plan, params)
    atoms, dims = plan.axes()
    positions = Kept({atoms[name]: order for name, order in nested.order.items()})

    def sort(path: str, leaf: Any) -> Any:
        for d, axis in enumerate(dims.get(path, ())):
            if (index := positions(axis)) is not None:
                leaf = leaf.take(index, axis=d)
        return leaf

    return paths.map_with_path(sort, params)


def narrow(plan: Plan, params: PyTree, own: Mapping[str, PyTree] | None = None) -> PyTree:
    """The parameters of one width: slices of the sorted ones, `slim.graph.shrink` without gathers.

    Under `jit` nothing is stored twice, and gradients arrive at the one set of weights.

    Args:
        plan: one of `Nested.plans`.
        params: from `sort_units`.
        own: collections that this width has of its own, by name; see `own_statistics`.

    Raises:
        ValueError: `params` are not those of the plan.
    """
    check(plan, params)

    def cut(path: str, leaf: Any) -> Any:
        for d, kept in enumerate(plan.indices.get(path, ())):
            if kept is None:
                continue
            if np.array_equal(kept, np.arange(len(kept))):
                leaf = leaf[(slice(None),) * d + (slice(len(kept)),)]
            else:  # the units are not the slowest of the dimension: joined heads, say
                leaf = leaf.take(kept, axis=d)
        return leaf

    small = paths.map_with_path(cut, params)
    return {**small, **own} if own else small


def own_statistics(
    nested: Nested, params: Mapping[str, PyTree], collections: Collection[str] = ("batch_stats",)
) -> tuple[dict[str, PyTree], ...]:
    """Each width's own batch statistics to begin with: switchable batch normalization.

    A narrow network's activations have other means and variances (Yu et al. 2019, section 3.3);
    `slim.quant.reestimate` finds them after training (Yu and Huang 2019, section 3.2), width by
    width.

    Args:
        nested: the widths.
        params: from `sort_units`, collections by name.
        collections: those that every width has of its own.

    Raises:
        ValueError: no such collection.
    """
    for name in collections:
        if name not in params:
            raise ValueError(paths.unknown_name("collections", name, params))
    return tuple(
        {name: each for name, each in narrow(plan, params).items() if name in collections}
        for plan in nested.plans
    )


def nested_depths(
    blocks: Sequence[Block], importance: Mapping[str, float], depths: Sequence[int]
) -> tuple[DepthPlan, ...]:
    """Depths of one network: the most important blocks stay, so a shallower one's are a deeper's.

    `slim.prune.depth.drop_blocks` gives the functions, `drop_params` their parameters, uncopied.

    Args:
        blocks: from `slim.prune.depth.residual_blocks`.
        importance: of each by name: what is lost without it, say.
        depths: how many blocks stay in each network.

    Raises:
        ValueError: a block without importance, a depth outside [0, number of blocks].

    >>> blocks = [Block(name, (name,)) for name in "abc"]
    >>> plans = nested_depths(blocks, {"a": 0.5, "b": 0.1, "c": 0.2}, [2, 1])
    >>> [[block.name for block in plan.blocks] for plan in plans]
    [['b'], ['b', 'c']]
    """
    for block in blocks:
        if block.name not in importance:
            raise ValueError(paths.unknown_name("importance of block", block.name, importance))
    order = sorted(blocks, key=lambda block: -importance[block.name])
    for depth in depths:
        if not 0 <= depth <= len(blocks):
            raise ValueError(f"depths has {depth}, must be from 0 to {len(blocks)}, all blocks")
    return tuple(
        DepthPlan(tuple(block for block in blocks if block in order[depth:])) for depth in depths
    )


def sandwich_loss(
    networks: Sequence[Callable[[PyTree], jax.Array]],
    params: PyTree,
    labels: jax.Array,
    key: jax.Array,
    *,
    middle: int = 2,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """The sandwich rule with distillation in place (Yu and Huang 2019, sections 3.1 and 3.3).

        H(y, p_0) + tau^2 sum_i KL(p_0 || p_i)     over i = the last, and `middle` random others

    The widest, the first of `networks`, learns from the labels `(batch,)`, the others from it. All
    else is as in `distilled_in_place`.

    Raises:
        ValueError: fewer than two networks, or fewer between the ends than `middle`.
    """
    widest = networks[0](params)
    narrower = distilled_in_place(
        networks[1:], params, widest, key, middle=middle, temperature=temperature
    )
    return cross_entropy(widest, labels).mean() + narrower


def distilled_in_place(
    narrower: Sequence[Callable[[PyTree], jax.Array]],
    params: PyTree,
    widest: jax.Array,
    key: jax.Array,
    *,
    middle: int = 2,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """The second term of `sandwich_loss`, where the first is another: with smoothed labels, say.

    The widest's gradient is not changed. Those drawn are branches of one program, in which XLA's
    CPU compiler leaves convolutions ten times slower (https://github.com/jax-ml/jax/issues/12868);
    where all are trained, none is drawn.

    Args:
        narrower: params -> logits `(batch, classes)` of all but the widest, the narrowest last.
        params: the one set of weights.
        widest: the logits of the widest.
        key: draws the others, without repetition.
        middle: how many.
        temperature: tau.

    Returns:
        Float32, ().

    Raises:
        ValueError: none is narrower, or fewer between the ends than `middle`.
    """
    between = narrower[:-1]
    if not narrower or not 0 <= middle <= len(between):
        raise ValueError(
            f"{1 + len(narrower)} networks and middle={middle}: give two or more networks, and "
            f"middle from 0 to {len(between)}, as many as there are between the ends"
        )
    if middle == len(between):
        others = [network(params) for network in narrower]
    else:
        drawn = jax.random.permutation(key, len(between))[:middle]
        others = [jax.lax.switch(i, between, params) for i in drawn] + [narrower[-1](params)]
    losses = [soft_targets.value(each, widest, temperature=temperature) for each in others]
    return jnp.stack(losses).sum()

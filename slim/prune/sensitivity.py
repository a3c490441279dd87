"""Sensitivity: what each group costs the model when it alone is pruned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from slim import paths
from slim.graph import Graph, Plan, make_plan
from slim.graph.stored_json import Fields, Stored, exactly, number, record, row, table
from slim.prune.ratio import check_keep
from slim.prune.widths import GroupDistribution, Order, Scores, keep_highest


@dataclass(frozen=True)
class Point:
    """One group pruned to one width, all others whole.

    Attributes:
        keep: share of the group's units that was asked for.
        width: how many units that leaves.
        metric: the model's.
        estimate: the sum of the removed units' scores: for a score such as taylor or fisher, the
            change of the loss that gradients foretell.
    """

    keep: float
    width: int
    metric: float
    estimate: float


@dataclass(frozen=True)
class Sensitivity(Stored):
    """A metric, higher better, against the keep ratio of each group.

    Attributes:
        baseline: the metric with nothing pruned.
        sizes: of each group, by name, how many units it had.
        curves: of each group, points of falling width.
    """

    FIELDS: ClassVar[Fields] = {
        "baseline": number,
        "sizes": table(exactly(int)),
        "curves": table(row(record(Point))),
    }

    baseline: float
    sizes: Mapping[str, int]
    curves: Mapping[str, tuple[Point, ...]]


def measure_sensitivity(
    graph: Graph,
    scores: Scores,
    evaluate: Callable[[Plan], float],
    *,
    keeps: Sequence[float] = (0.9, 0.7, 0.5, 0.3, 0.1),
) -> Sensitivity:
    """Prune each group alone to each ratio, lowest scores first, and evaluate.

    Args:
        graph: the graph whose groups `scores` names.
        scores: of the units of the groups to measure; see `score_groups`.
        evaluate: plan -> metric, higher better. Evaluating `mask(plan, params)` keeps shapes and so
            compiles once; it equals the shrunk model.
        keeps: the ratios, each in (0, 1].

    Raises:
        ValueError: a ratio outside (0, 1]; a group that the graph has not, or may not cut.
    """
    for keep in keeps:
        check_keep(keep)
    values = {name: np.asarray(each) for name, each in scores.items()}
    # Refuses wrong names and sizes at once; then the choice alone changes from plan to plan.
    whole = make_plan(graph, {name: np.arange(each.size) for name, each in values.items()})
    curves = {}
    for name, each in values.items():
        points = []
        for keep in sorted(keeps, reverse=True):
            width = max(1, round(keep * each.size))
            kept = keep_highest({name: each}, {name: width})[name]
            cut = {name: tuple(kept.tolist())} if width < each.size else {}
            plan = replace(whole, keep=cut)
            estimate = float(np.delete(each, kept).sum())
            points.append(Point(keep, width, float(evaluate(plan)), estimate))
        curves[name] = tuple(points)
    sizes = {name: each.size for name, each in values.items()}
    return Sensitivity(float(evaluate(whole)), sizes, curves)


def by_sensitivity(sensitivity: Sensitivity) -> GroupDistribution:
    """A group distribution: first goes the unit whose removal should lower the metric least.

    Between measured widths the metric's drop is interpolated. Below the smallest, it is infinite:
    no group is cut further than was measured while another can be.

    Raises:
        ValueError: when applied to a group that was not measured, or was at another size.
    """

    def order(scores: Mapping[str, np.ndarray]) -> Order:
        return {
            name: _expected_drops(sensitivity, name, each.size) for name, each in scores.items()
        }

    return order


def _expected_drops(sensitivity: Sensitivity, name: str, size: int) -> np.ndarray:
    if name not in sensitivity.curves:
        near = paths.nearest(name, sensitivity.curves) or sorted(sensitivity.curves)[:3]
        raise ValueError(
            f"the sensitivity of group {name!r} was not measured; nearest: {', '.join(near)}"
        )
    if sensitivity.sizes[name] != size:
        raise ValueError(
            f"the sensitivity of group {name!r} was measured when it had "
            f"{sensitivity.sizes[name]} units, and it has {size}: measure it anew"
        )
    points = sensitivity.curves[name]
    removed = [0, *(size - point.width for point in points)]
    drops = [0.0, *(sensitivity.baseline - point.metric for point in points)]
    # A metric that rises on the way is noise: a deeper cut is never better.
    rising = np.maximum.accumulate(drops)
    return np.interp(np.arange(1, size + 1), removed, rising, right=np.inf)

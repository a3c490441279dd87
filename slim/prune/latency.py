"""Latency tables: what each group's width costs in time, and the best widths within a limit.

Time does not follow from MACs: a width of 60 can be slower than one of 64. So each group alone is
timed at a few widths on the device at hand, savings are taken to add up, and widths are chosen that
keep the most score within the time: a knapsack with one width to choose per group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from slim import paths
from slim.graph import Graph, Plan
from slim.graph.stored_json import Fields, Stored, number, table
from slim.prune.ratio import check_keep
from slim.prune.widths import NO_LIMITS, Limits, Scores, Widths, plan_widths

# The time to distribute is divided into this many; rounding never exceeds the limit.
_STEPS = 2**16


@dataclass(frozen=True)
class LatencyTable(Stored):
    """Measured seconds of one call.

    Attributes:
        baseline: with every group whole.
        seconds: by group and width, with that group alone at that width.
    """

    FIELDS: ClassVar[Fields] = {"baseline": number, "seconds": table(table(number, key=int))}

    baseline: float
    seconds: Mapping[str, Mapping[int, float]]

    def __call__(self, widths: Widths) -> float:
        """The seconds expected at these widths, all of which must be in the table."""
        return self.baseline + sum(
            self.seconds[name][width] - self.baseline
            for name, width in widths.items()
            if name in self.seconds
        )


def measure_latency(
    graph: Graph,
    sizes: Widths,
    time: Callable[[Plan], float],
    *,
    keeps: Sequence[float] = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125),
    limits: Sequence[tuple[str, Limits]] = (),
    default: Limits = NO_LIMITS,
) -> LatencyTable:
    """Time the network with each group alone at several widths.

    Args:
        graph: the graph whose groups `sizes` names.
        sizes: the groups' widths, by name.
        time: plan -> seconds of one call of the shrunk network.
        keeps: the ratios, each in (0, 1]; rounded to widths that the limits allow.
        limits: (group name pattern, limits) rules, first match wins.
        default: the limits of groups that no rule matches.

    Raises:
        ValueError: a ratio outside (0, 1]; a rule decides nothing; a group that the graph has not.
    """
    for keep in keeps:
        check_keep(keep)
    rules = paths.resolve(limits, sizes, what="width rule")

    def seconds(widths: Widths) -> float:
        # Which of the units are kept makes no difference to the time.
        return float(time(plan_widths(graph, {n: np.arange(sizes[n]) for n in widths}, widths)))

    baseline = seconds({})
    table = {}
    for name, size in sizes.items():
        limit = rules[name] or default
        limit.check(name)
        ratios = (1.0, *keeps) if limit.keep is None else (limit.keep,)
        allowed = {limit.width(round(keep * size), size) for keep in ratios}
        table[name] = {
            width: baseline if width == size else seconds({name: width})
            for width in sorted(allowed)
        }
    return LatencyTable(baseline, table)


def fit_latency(scores: Scores, table: LatencyTable, target: float) -> dict[str, int]:
    """The widths that keep the highest total score within `target` seconds.

    Solved by dynamic programming, exactly but for the time's division into 65,536 steps.

    Args:
        scores: of each group's units, comparable between groups; see `score_groups`.
        table: of the same groups.
        target: seconds of one call, by the table.

    Raises:
        ValueError: no widths in the table are that fast; a group is not in the table.

    >>> table = LatencyTable(4.0, {"a": {1: 3.0, 2: 4.0}, "b": {1: 2.5, 2: 4.0}})
    >>> fit_latency({"a": np.array([5.0, 5.0]), "b": np.array([5.0, 4.0])}, table, 2.5)
    {'a': 2, 'b': 1}
    """
    for name in scores:
        if name not in table.seconds:
            near = paths.nearest(name, table.seconds) or sorted(table.seconds)[:3]
            raise ValueError(f"group {name!r} is not in the latency table; nearest: {near}")
    widths = {name: np.array(sorted(table.seconds[name])) for name in scores}
    seconds = {
        name: np.array([table.seconds[name][width] for width in each])
        for name, each in widths.items()
    }
    fastest = table.baseline + sum(float(row.min()) - table.baseline for row in seconds.values())
    if fastest > target:
        raise ValueError(
            f"target {target:g} s is out of reach: the fastest widths in the table take "
            f"{fastest:g} s, unpruned {table.baseline:g} s"
        )
    # best[b]: the most score with b steps of time above the fastest; choice[b] what it took.
    step = (target - fastest) / _STEPS or 1.0
    best = np.zeros(_STEPS + 1)
    choices = []
    for name, each in widths.items():
        ascending = np.sort(np.asarray(scores[name], np.float64))
        kept = np.array([ascending[ascending.size - width :].sum() for width in each])
        steps = np.ceil((seconds[name] - seconds[name].min()) / step - 1e-9).astype(int)
        options = np.full((each.size, _STEPS + 1), -np.inf)
        for option, (value, taken) in enumerate(zip(kept, steps, strict=True)):
            if taken <= _STEPS:
                options[option, taken:] = best[: _STEPS + 1 - taken] + value
        # Of equal totals the narrowest.
        choice = options.argmax(axis=0)
        choices.append((name, choice, steps))
        best = options.max(axis=0)
    chosen, left = {}, _STEPS
    for name, choice, steps in reversed(choices):
        chosen[name] = int(widths[name][choice[left]])
        left -= int(steps[choice[left]])
    return {name: chosen[name] for name in scores}

"""Group widths: what a network costs at them, and those that meet a budget.

Units are removed one by one in an order that a *group distribution* gives, all groups together,
until the cost is low enough; each group's width is then rounded up to what the device likes. A
group distribution is a function from each group's ascending scores to each unit's place in that
order (lowest goes first); a new one has its place in `GROUP_DISTRIBUTIONS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from slim import paths
from slim.graph import Graph, Plan, make_plan

Scores = Mapping[str, np.ndarray] | Mapping[str, jax.Array]
Widths = Mapping[str, int]
Order = dict[str, np.ndarray]
GroupDistribution = Callable[[Mapping[str, np.ndarray]], Order]


class Limits(NamedTuple):
    """What widths a group may have.

    Attributes:
        min_width: the fewest units left.
        round_to: widths are multiples of this (8, 16, 64, 128 as the device likes), or the
            original width: groups smaller than it stay whole.
        keep: a fixed share of the units, in (0, 1], instead of one that follows from the budget;
            1 leaves the group alone.
    """

    min_width: int = 1
    round_to: int = 1
    keep: float | None = None

    def width(self, wanted: int, size: int) -> int:
        """The smallest allowed width that is at least `wanted`."""
        floor = max(wanted, self.min_width, 1)
        return min(size, -(-floor // self.round_to) * self.round_to)

    def check(self, name: str) -> None:
        """Raise ValueError for limits that mean nothing."""
        if self.min_width < 1 or self.round_to < 1:
            raise ValueError(
                f"group {name!r}: min_width={self.min_width}, round_to={self.round_to}; both must "
                "be at least 1: a group cannot be emptied"
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"group {name!r}: keep={self.keep}, must be in (0, 1]")


NO_LIMITS = Limits()


def uniform_order(scores: Mapping[str, np.ndarray]) -> Order:
    """The same share of every group: the i-th lowest of n goes at i / n."""
    return {name: (np.arange(s.size) + 1) / s.size for name, s in scores.items()}


def global_order(scores: Mapping[str, np.ndarray]) -> Order:
    """The lowest score first, whichever group it is in; scores must be comparable."""
    return {name: np.asarray(s, np.float64) for name, s in scores.items()}


GROUP_DISTRIBUTIONS: dict[str, GroupDistribution] = {
    "uniform": uniform_order,
    "global": global_order,
}


def fit_widths(
    scores: Scores,
    cost: Callable[[Widths], float],
    target: float,
    *,
    distribution: GroupDistribution = global_order,
    limits: Sequence[tuple[str, Limits]] = (),
    default: Limits = NO_LIMITS,
) -> dict[str, int]:
    """The widest groups whose cost is at most `target`.

    Args:
        scores: of each group's units, by name; see `score_groups`.
        cost: of the network at given widths; falls with each. See `width_costs`.
        target: the budget, in the cost's unit.
        distribution: which units go first, from `GROUP_DISTRIBUTIONS`.
        limits: (group name pattern, limits) rules, first match wins.
        default: the limits of groups that no rule matches.

    Raises:
        ValueError: no widths within the limits meet the target; a rule decides nothing; limits
            out of range; NaN scores.

    >>> scores = {"a": np.array([4.0, 1.0, 3.0, 2.0]), "b": np.array([9.0, 9.0])}
    >>> fit_widths(scores, lambda widths: sum(widths.values()), 4)
    {'a': 2, 'b': 2}
    """
    rules = paths.resolve(limits, scores, what="width rule")
    allowed = {name: rule or default for name, rule in rules.items()}
    ascending = {}
    for name, values in scores.items():
        allowed[name].check(name)
        values = np.asarray(values)
        if np.isnan(values).any():
            raise ValueError(f"scores of group {name!r} have a NaN: its evidence is not finite")
        ascending[name] = np.sort(values)
    sizes = {name: values.size for name, values in ascending.items()}
    free = [name for name, limit in allowed.items() if limit.keep is None]

    order = distribution({name: ascending[name] for name in free})
    # A unit goes no earlier than those of its group that score lower.
    places = [np.maximum.accumulate(order[name]) for name in free]
    owners = np.repeat(np.arange(len(free)), [place.size for place in places])
    removed = owners[np.argsort(np.concatenate([[], *places]), kind="stable")]

    def widths(gone: int) -> dict[str, int]:
        lost = dict(zip(free, np.bincount(removed[:gone], minlength=len(free)), strict=True))
        return {
            name: _width(allowed[name], size, int(lost.get(name, 0)))
            for name, size in sizes.items()
        }

    low, high = 0, len(removed)
    if cost(widths(high)) > target:
        raise ValueError(
            f"target {target:g} is out of reach: at the smallest widths that the limits allow the "
            f"cost is {cost(widths(high)):g}, unpruned {cost(sizes):g}; raise the target, or lower "
            "min_width and round_to"
        )
    while low < high:
        middle = (low + high) // 2
        if cost(widths(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return widths(low)


def _width(limit: Limits, size: int, lost: int) -> int:
    if limit.keep is not None:
        return limit.width(round(limit.keep * size), size)
    return limit.width(size - lost, size)


def keep_highest(scores: Scores, widths: Widths) -> dict[str, np.ndarray]:
    """The indices of each group's `width` highest scores, ascending; among equals the earlier.

    >>> keep_highest({"a": np.array([1.0, 3.0, 2.0])}, {"a": 2})
    {'a': array([1, 2])}
    """
    return {
        name: np.sort(np.argsort(-np.asarray(scores[name]), kind="stable")[:width])
        for name, width in widths.items()
    }


def plan_widths(graph: Graph, scores: Scores, widths: Widths) -> Plan:
    """The plan that keeps each group's highest scores, as many as its width."""
    return make_plan(graph, keep_highest(scores, widths))

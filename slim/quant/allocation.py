"""Which format for which site: the exact best under a budget, or within a tolerance."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Tables = Mapping[str, Mapping[str, tuple[float, float]]]
"""{site: {format: (loss, cost)}}. Loss is what the model suffers if this site alone has the format,
in any unit that adds up over sites; cost is its bytes, bit operations, seconds."""


class Allocation(NamedTuple):
    """A format for each site, and what they amount to.

    Attributes:
        formats: format by site.
        loss: sum of the sites' losses.
        cost: sum of the sites' costs.
    """

    formats: dict[str, str]
    loss: float
    cost: float


def allocate(tables: Tables, budget: float) -> Allocation:
    """The formats of least total loss whose total cost is at most `budget`.

        min sum_sf loss_sf z_sf  over z_sf in {0, 1}
        with sum_f z_sf = 1 for each s, sum_sf cost_sf z_sf <= budget

    solved exactly, by branch and cut; of several such, the cheapest. Losses add up if the sites'
    perturbations are small (Dong et al. 2020, arXiv:1911.03852; Yao et al. 2021,
    arXiv:2011.10680).

    Raises:
        ValueError: no site, a site without formats, a number that is not finite, a budget below the
            least possible cost.

    >>> tables = {"a": {"int4": (0.5, 1), "int8": (0.1, 2)}, "b": {"int4": (3, 4), "int8": (0, 8)}}
    >>> allocate(tables, budget=9)
    Allocation(formats={'a': 'int4', 'b': 'int8'}, loss=0.5, cost=9.0)
    """
    losses, costs = _columns(tables)
    least = math.fsum(min(column) for column in costs)
    if not budget >= least:
        raise ValueError(
            f"budget is {budget:g}, below {least:g}, the least possible cost, of the cheapest "
            "format at every site: raise it, or offer cheaper formats"
        )
    refused: list[list[int]] = []
    while _total(costs, chosen := _solve(losses, costs, budget, refused)) > budget:
        refused.append(chosen)  # over by less than the solver's tolerance
    cheapest = _solve(costs, losses, _total(losses, chosen), ())
    if _total(losses, cheapest) <= _total(losses, chosen) and _total(costs, cheapest) <= budget:
        chosen = cheapest
    formats = {site: list(tables[site])[f] for site, f in zip(tables, chosen, strict=True)}
    return Allocation(formats, _total(losses, chosen), _total(costs, chosen))


def cheapest(tables: Tables, tolerance: float) -> Allocation:
    """The formats of least total cost whose total loss is at most `tolerance`.

        min sum_sf cost_sf z_sf  over z_sf in {0, 1}
        with sum_f z_sf = 1 for each s, sum_sf loss_sf z_sf <= tolerance

    `allocate` with loss and cost in each other's place, as exact; of several such, that of least
    loss.

    Raises:
        ValueError: a tolerance below the least possible loss; tables as `allocate` says.

    >>> tables = {"a": {"float": (0, 9), "int8": (3, 4)}, "b": {"float": (0, 9), "int8": (2, 6)}}
    >>> cheapest(tables, tolerance=4)
    Allocation(formats={'a': 'int8', 'b': 'float'}, loss=3.0, cost=13.0)
    """
    losses, _ = _columns(tables)
    least = math.fsum(min(column) for column in losses)
    if not tolerance >= least:
        raise ValueError(
            f"tolerance is {tolerance:g}, below {least:g}, the least possible loss, of the most "
            "exact format at every site: raise it, or offer more exact formats"
        )
    swapped = {
        site: {format: (cost, loss) for format, (loss, cost) in table.items()}
        for site, table in tables.items()
    }
    formats, cost, loss = allocate(swapped, tolerance)
    return Allocation(formats, loss, cost)


def pareto(tables: Tables, points: int = 20) -> list[Allocation]:
    """The best allocations under `points` budgets evenly spread over all costs that matter.

    From the cheapest to the one of least loss, each once, so at most `points`: no allocation costs
    less than one of them without losing more.

    Raises:
        ValueError: points below 2, or tables as `allocate` says.

    >>> front = pareto({"a": {"int4": (0.5, 1), "int8": (0.1, 2)}}, points=2)
    >>> [(best.cost, best.loss) for best in front]
    [(1.0, 0.5), (2.0, 0.1)]
    """
    if points < 2:
        raise ValueError(f"points is {points}, must be at least 2: the two ends of the front")
    _, costs = _columns(tables)
    least = math.fsum(min(column) for column in costs)
    most = allocate(tables, math.inf).cost
    budgets = [*np.linspace(least, most, points)[:-1], most]
    front = {best.cost: best for best in (allocate(tables, budget) for budget in budgets)}
    return list(front.values())


Columns = list[list[float]]


def _columns(tables: Tables) -> tuple[Columns, Columns]:
    """Losses and costs, by site and format."""
    if not tables:
        raise ValueError("tables has no site: measure the sensitivity of at least one")
    for site, table in tables.items():
        if not table:
            raise ValueError(f"site {site!r} has no format to choose from")
        for name, pair in table.items():
            if not all(map(math.isfinite, pair)):
                raise ValueError(
                    f"(loss, cost) of site {site!r} in format {name!r} is {tuple(pair)}: both must "
                    "be finite; leave the format out if it cannot be used there"
                )
    losses, costs = (
        [[float(pair[i]) for pair in table.values()] for table in tables.values()] for i in (0, 1)
    )
    return losses, costs


def _total(values: Columns, chosen: Sequence[int]) -> float:
    return math.fsum(column[f] for column, f in zip(values, chosen, strict=True))


def _solve(
    values: Columns, weights: Columns, limit: float, refused: Sequence[Sequence[int]]
) -> list[int]:
    """The format of each site for the least total value, the total weight within `limit`.

    To the solver's tolerance, about 1e-12 of what is between `limit` and the least weight.
    """
    # Differences to each site's least, in units of which the tolerance, 1e-6, is a small part.
    value, weight = (
        np.concatenate([np.subtract(column, min(column)) for column in columns])
        for columns in (values, weights)
    )
    least, most = (math.fsum(extreme(column) for column in weights) for extreme in (min, max))
    # A rounding error more, not to lose what is exactly at the limit.
    room = min(limit, most) - least + 4 * np.spacing(max(abs(least), abs(most)))
    fits = weight <= room
    value, weight = np.where(fits, value, 0), np.where(fits, weight, 0)
    value, weight = 1e6 * (value / (value.max() or 1.0)), 1e6 * (weight / room)

    sizes = [len(column) for column in values]
    site = np.repeat(np.arange(len(sizes)), sizes)
    start = np.cumsum([0, *sizes[:-1]])
    one_each = (site == np.arange(len(sizes))[:, None]).astype(float)
    others = np.zeros((len(refused), len(site)))
    for row, chosen in zip(others, refused, strict=True):
        row[start + chosen] = 1
    found = milp(
        value,
        integrality=np.ones_like(value),
        bounds=Bounds(0, fits.astype(float)),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(weight, ub=1e6),
            LinearConstraint(others, ub=len(sizes) - 1),
        ],
        options={"mip_rel_gap": 0},
    )
    return (np.flatnonzero(found.x > 0.5) - start).tolist()

"""Which layers a text gets, decided from its complexity before it is computed.

    options = prefixes(6)                                  the first layer, the first two, ...
    plan = fit_plan(complexity, right, options, costs, budget)
    chosen = assign(plan, score_complexity(state, ids))    an index into `options`, by text
    outcome(chosen, right, costs)                          beside that of `shuffled(key, chosen)`

The best subset of the layers for each bucket of complexities is found on held-out texts, or the
buckets are cut so that given shares of the texts get each subset.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import brentq

from slim.dynamic.layer_plan import LayerPlan, Layers
from slim.quant.allocation import allocate

Array = jax.Array | np.ndarray


class Outcome(NamedTuple):
    """What a choice comes to.

    Attributes:
        accuracy: share of right predictions, 0 to 1.
        cost: mean over the texts, in the costs' unit.
    """

    accuracy: float
    cost: float


def shares_within(costs: Sequence[float] | Array, budget: float) -> np.ndarray:
    """The most even shares of the options whose mean cost is within `budget`.

        max -sum_d p_d log p_d  with  sum_d p_d cost_d <= budget:  p_d ~ exp(-lambda cost_d)

    For costs in equal steps these are the geometric shares of Huang et al. 2018, arXiv:1703.09844,
    section 5.2 (budgeted batch classification).

    Args:
        costs: of each option; MACs or seconds.
        budget: mean cost of a text.

    Raises:
        ValueError: a cost that is not finite, a budget that is not above the least cost.

    >>> shares_within([1, 2, 3], 1.5).round(4).tolist()
    [0.6162, 0.2676, 0.1162]
    """
    values = _costs(costs)
    if budget >= values.mean():
        return np.full(len(values), 1 / len(values))
    if not budget > values.min():
        raise ValueError(
            f"budget is {budget:g}, must be above {values.min():g}, the least cost: raise it, or "
            "offer cheaper layers"
        )
    relative = (values - values.min()) / (values.max() - values.min())
    wanted = (budget - values.min()) / (values.max() - values.min())

    def shares(slope: float) -> np.ndarray:
        unscaled = np.exp(-slope * relative)
        return unscaled / unscaled.sum()

    steepest = 1.0
    while shares(steepest) @ relative > wanted:
        steepest *= 2
    return shares(brentq(lambda slope: shares(slope) @ relative - wanted, 0, steepest, xtol=1e-14))


def plan_by_shares(
    complexity: Array, shares: Sequence[float] | Array, layers: Sequence[Layers]
) -> LayerPlan:
    """The plan that gives the simplest share of the texts the first subset, the next the second ...

    Args:
        complexity: `(texts,)`, of held-out texts.
        shares: of each subset, adding up to 1; see `shares_within`. As near as ties allow.
        layers: the subsets.

    Raises:
        ValueError: shares that are negative, do not add up to 1, or are not one for each subset.

    >>> from slim.dynamic.layer_plan import prefixes
    >>> plan_by_shares(np.array([0.0, 0.25, 0.5, 0.75]), [0.5, 0.5], prefixes(2)).edges
    (0.5,)
    """
    given = np.asarray(shares, np.float64)
    if given.shape != (len(layers),) or given.min() < 0 or not np.isclose(given.sum(), 1):
        raise ValueError(
            f"shares is {given.tolist()}: give one for each of {len(layers)} subsets of layers, "
            "none negative, adding up to 1"
        )
    distinct, cuts = _cuts(_finite(complexity), np.cumsum(given)[:-1])
    options = [o for o in range(len(layers)) if cuts[o] < cuts[o + 1]]
    edges = tuple(float(distinct[cuts[o]]) for o in options[1:])
    return LayerPlan(edges, tuple(options), tuple(layers))


def fit_plan(
    complexity: Array,
    right: Array,
    layers: Sequence[Layers],
    costs: Sequence[float] | Array,
    budget: float,
    *,
    buckets: int = 8,
) -> LayerPlan:
    """The best subset of layers for each bucket, on held-out texts.

        max sum_b right_b,o(b)  over the options o(b) of the buckets,  mean cost <= budget

    with buckets of equal shares of the texts: a knapsack with one option to choose per bucket,
    solved exactly by `slim.quant.allocate`; of several such plans, the cheapest.

    Args:
        complexity: `(texts,)`.
        right: `(texts, options)`, whether the text is classified rightly by each subset.
        layers: the subsets, the options.
        costs: of each option for one text: MACs or seconds.
        budget: mean cost of a text, in the costs' unit.
        buckets: into how many the texts are cut; fewer where many are of one complexity.

    Raises:
        ValueError: shapes that do not fit, fewer than one bucket, a budget below the least cost.

    >>> from slim.dynamic.layer_plan import prefixes
    >>> complexity = np.array([0.0, 0.25, 0.5, 0.75])
    >>> right = np.array([[1, 1], [1, 1], [0, 1], [0, 1]])
    >>> fit_plan(complexity, right, prefixes(2), [1.0, 2.0], 1.5, buckets=2)
    LayerPlan(edges=(0.5,), options=(0, 1), layers=((0,), (0, 1)))
    """
    values, hits, each = _finite(complexity), np.asarray(right, np.float64), _costs(costs)
    if hits.shape != (len(values), len(layers)) or len(each) != len(layers):
        raise ValueError(
            f"complexity {values.shape}, right {hits.shape}, costs {each.shape}, {len(layers)} "
            "subsets of layers: must be (texts,), (texts, options), (options,), one subset each"
        )
    if buckets < 1:
        raise ValueError(f"buckets is {buckets}, must be at least 1")
    distinct, cuts = _cuts(values, np.arange(1, buckets) / buckets)
    edges = tuple(float(distinct[cut]) for cut in sorted(set(cuts[1:-1]) - {0, len(distinct)}))
    bucket = np.searchsorted(np.asarray(edges, np.float32), values, side="right")
    tables = {}
    for b in range(len(edges) + 1):
        inside = bucket == b
        wrong, spent = (1 - hits[inside]).sum(axis=0), each * inside.mean()
        tables[str(b)] = {str(o): (float(wrong[o]), float(spent[o])) for o in range(len(layers))}
    chosen = allocate(tables, budget).formats
    return LayerPlan(edges, tuple(int(chosen[b]) for b in tables), tuple(layers))


def outcome(chosen: Array, right: Array, costs: Sequence[float] | Array) -> Outcome:
    """Accuracy and mean cost where each text runs its option.

    Args:
        chosen: `(texts,)`, integers: the options, from `assign`.
        right: `(texts, options)`.
        costs: `(options,)`.

    >>> outcome(np.array([0, 1]), np.array([[1, 1], [0, 1]]), [1.0, 3.0])
    Outcome(accuracy=1.0, cost=2.0)
    """
    options, hits = np.asarray(chosen), np.asarray(right, np.float64)
    taken = hits[np.arange(len(options)), options]
    return Outcome(float(taken.mean()), float(_costs(costs)[options].mean()))


def shuffled(key: jax.Array, chosen: jax.Array) -> jax.Array:
    """The same options given to texts at random: the control, of exactly the same cost."""
    return jax.random.permutation(key, chosen)


def _cuts(values: np.ndarray, upto: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The distinct values, ascending, and how many of them lie below each cut, 0 and all included.

    A cut has as near as possible to the share `upto` of the texts below it; equals stay together.
    """
    distinct, counts = np.unique(values, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)]) / len(values)
    nearest = np.abs(below - upto[:, None]).argmin(axis=1)
    return distinct, [0, *nearest.tolist(), len(distinct)]


def _finite(complexity: Array) -> np.ndarray:
    values = np.asarray(complexity, np.float32)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"complexity, of shape {values.shape}, must be (texts,), at least one, all finite"
        )
    return values


def _costs(costs: Sequence[float] | Array) -> np.ndarray:
    values = np.asarray(costs, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"costs is {values.tolist()}: give a finite number for each option")
    return values

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.quant.allocation import allocate, cheapest, pareto

TABLES = {
    "first": {"int4": (2.0, 10), "int8": (0.1, 20)},
    "middle": {"int4": (0.4, 100), "int8": (0.0, 200)},
    "last": {"int2": (9.0, 15), "int4": (1.0, 30), "int8": (0.5, 60)},
}


def every_allocation(tables):
    """(loss, cost, formats) of all combinations."""
    for formats in itertools.product(*tables.values()):
        pairs = [tables[site][f] for site, f in zip(tables, formats, strict=True)]
        loss, cost = (math.fsum(column) for column in zip(*pairs, strict=True))
        yield loss, cost, formats


def brute_force(tables, budget):
    return min((loss, cost) for loss, cost, _ in every_allocation(tables) if cost <= budget)


def check(tables, budget):
    best = allocate(tables, budget)
    assert set(best.formats) == set(tables)
    pairs = [tables[site][f] for site, f in best.formats.items()]
    assert best.loss == math.fsum(loss for loss, _ in pairs)
    assert best.cost == math.fsum(cost for _, cost in pairs) <= budget
    loss, cost = brute_force(tables, budget)
    spread = max(each[0] for each in every_allocation(tables)) - loss
    assert best.loss == pytest.approx(loss, rel=0, abs=1e-9 * spread)
    return best, (loss, cost)


def tables_of(losses, costs):
    def table(options):
        return {f"int{i}": pair for i, pair in enumerate(options)}

    sites = st.lists(st.tuples(losses, costs), min_size=1, max_size=4).map(table)
    return st.lists(sites, min_size=1, max_size=5).map(
        lambda tables: {f"layer_{i}": each for i, each in enumerate(tables)}
    )


# Integers: many ties, and budgets met exactly.
@settings(max_examples=60, deadline=None)
@given(tables_of(st.integers(-5, 20), st.integers(0, 12)), st.data())
def test_equals_brute_force_in_integers(tables, data):
    costs = sorted({cost for _, cost, _ in every_allocation(tables)})
    best, expected = check(tables, data.draw(st.sampled_from(costs)))
    assert (best.loss, best.cost) == expected


# Losses of any magnitude, costs in seconds.
@settings(max_examples=60, deadline=None)
@given(tables_of(st.floats(-1e-3, 1e3), st.floats(1e-6, 1e-2)), st.data())
def test_equals_brute_force_in_floats(tables, data):
    costs = sorted({cost for _, cost, _ in every_allocation(tables)})
    check(tables, data.draw(st.sampled_from(costs)))


@settings(max_examples=60, deadline=None)
@given(tables_of(st.integers(0, 12), st.integers(-5, 20)), st.data())
def test_the_cheapest_equals_brute_force(tables, data):
    everything = list(every_allocation(tables))
    tolerance = data.draw(st.sampled_from(sorted({loss for loss, _, _ in everything})))
    best = cheapest(tables, tolerance)
    expected = min((cost, loss) for loss, cost, _ in everything if loss <= tolerance)
    assert (best.cost, best.loss) == expected
    assert (best.loss, best.cost, tuple(best.formats.values())) in everything


@settings(max_examples=10, deadline=None)
@given(tables_of(st.integers(0, 20), st.integers(0, 6)))
def test_front(tables):
    # Budgets less than 1 apart, so that none of the costs is missed.
    front = [(best.cost, best.loss) for best in pareto(tables, points=32)]
    everything = {(cost, loss) for loss, cost, _ in every_allocation(tables)}
    assert front == sorted(
        (cost, loss)
        for cost, loss in everything
        if not any(
            other != (cost, loss) and other[0] <= cost and other[1] <= loss for other in everything
        )
    )


def test_allocation_spends_where_it_saves_most():
    best = allocate(TABLES, 230)
    assert best.formats == {"first": "int8", "middle": "int4", "last": "int8"}
    assert best.cost == 180
    # Without a limit the least loss; at the least cost the cheapest.
    assert set(allocate(TABLES, math.inf).formats.values()) == {"int8"}
    assert allocate(TABLES, 125).formats == {"first": "int4", "middle": "int4", "last": "int2"}


def greedy(tables, budget):
    """Loss and cost if, from the cheapest on, bits go where a unit of cost saves the most loss."""
    names = {site: list(table) for site, table in tables.items()}
    chosen = dict.fromkeys(tables, 0)

    def total(place):
        return math.fsum(tables[s][names[s][f]][place] for s, f in chosen.items())

    while True:
        steps = []
        for site, f in chosen.items():
            if f + 1 < len(names[site]):
                now, then = (tables[site][name] for name in names[site][f : f + 2])
                if total(1) + then[1] - now[1] <= budget:
                    steps.append(((now[0] - then[0]) / (then[1] - now[1]), site))
        if not steps:
            return total(0), total(1)
        chosen[max(steps)[1]] += 1


def test_a_hundred_sites_beside_the_greedy_choice():
    rng = np.random.default_rng(0)
    tables = {
        f"layer_{i}": {
            f"int{bits}": (sensitivity * 4.0**-bits, float(bits * size)) for bits in (2, 4, 8)
        }
        for i, (sensitivity, size) in enumerate(
            zip(rng.gamma(1.0, size=100), rng.integers(1_000, 1_000_000, 100), strict=True)
        )
    }
    budget = 0.4 * sum(table["int8"][1] for table in tables.values())
    best, (loss, cost) = allocate(tables, budget), greedy(tables, budget)
    assert max(cost, best.cost) <= budget
    assert best.loss < loss


@pytest.mark.parametrize(
    ("tables", "budget", "message"),
    [
        (TABLES, 124.5, "budget is 124.5, below 125, the least possible cost"),
        (TABLES, math.nan, "budget is nan, below 125"),
        ({}, 1, "no site"),
        ({"dense": {}}, 1, "site 'dense' has no format"),
        ({"dense": {"int4": (math.nan, 1)}}, 1, r"'dense' in format 'int4' is \(nan, 1\)"),
        ({"dense": {"int4": (0.0, math.inf)}}, 1, r"\(0.0, inf\): both must be finite"),
    ],
)
def test_bad_input(tables, budget, message):
    with pytest.raises(ValueError, match=message):
        allocate(tables, budget)


@pytest.mark.parametrize("tolerance", [0.5, math.nan])
def test_a_tolerance_that_cannot_be_met(tolerance):
    with pytest.raises(ValueError, match=rf"tolerance is {tolerance}, below 0.6, the least"):
        cheapest(TABLES, tolerance)
    with pytest.raises(ValueError, match="'dense' has no format"):
        cheapest({"dense": {}}, 1.0)


def test_bad_front():
    with pytest.raises(ValueError, match="points is 1, must be at least 2"):
        pareto(TABLES, points=1)

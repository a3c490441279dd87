import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.graph import groups, shrink, trace
from slim.prune import LatencyTable, Limits, fit_latency, measure_latency

PARAMS = {"first": jnp.ones((2, 16)), "second": jnp.ones((16, 8)), "third": jnp.ones((8, 3))}
GRAPH = trace(
    lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["first"]) @ p["second"]) @ p["third"],
    PARAMS,
    jnp.ones((4, 2)),
)
SIZES = {group.name: group.size for group in groups(GRAPH)}


def seconds(plan):
    """Stands for a clock: in proportion to the small parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shrink(plan, PARAMS))) / 184


def test_each_group_is_timed_alone():
    table = measure_latency(
        GRAPH, SIZES, seconds, keeps=(0.5, 0.4, 0.1), default=Limits(round_to=4)
    )
    assert table.baseline == 1
    assert table.seconds["first:1"] == {4: 64 / 184, 8: 104 / 184, 16: 1.0}
    assert table.seconds["second:1"] == {4: 108 / 184, 8: 1.0}
    np.testing.assert_allclose(table({"first:1": 8, "second:1": 4}), (104 + 108 - 184) / 184)


def test_a_fixed_share_is_the_only_width_that_is_timed():
    limits = [("first:1", Limits(keep=0.5)), ("second:1", Limits(keep=1.0))]
    table = measure_latency(GRAPH, SIZES, seconds, limits=limits)
    assert table.seconds == {"first:1": {8: 104 / 184}, "second:1": {8: 1.0}}
    chosen = fit_latency({name: np.ones(size) for name, size in SIZES.items()}, table, 0.6)
    assert chosen == {"first:1": 8, "second:1": 8}


def by_trying_all(scores, table, target):
    best = None
    for widths in itertools.product(*(table.seconds[name] for name in scores)):
        chosen = dict(zip(scores, widths, strict=True))
        kept = sum(np.sort(s)[s.size - chosen[name] :].sum() for name, s in scores.items())
        if table(chosen) <= target and (best is None or kept > best):
            best = kept
    return best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 4, 8]))
def test_no_other_widths_keep_more(seed, left):
    rng = np.random.default_rng(seed)
    scores = {name: rng.uniform(size=8) for name in "abc"}
    # Powers of two divide the solver's steps, so that its rounding plays no part.
    rows = {name: {2: 1, 4: 3, 6: int(rng.integers(4, 9)), 8: 10} for name in scores}
    table = LatencyTable(10, rows)
    fastest = 10 + sum(min(row.values()) - 10 for row in rows.values())
    target = fastest + left
    widths = fit_latency(scores, table, target)
    assert table(widths) <= target
    kept = sum(np.sort(scores[n])[8 - w :].sum() for n, w in widths.items())
    np.testing.assert_allclose(kept, by_trying_all(scores, table, target))


def test_a_width_that_is_slower_and_narrower_is_never_chosen():
    table = LatencyTable(4.0, {"a": {6: 5.0, 8: 4.0, 4: 2.0}})
    scores = {"a": np.ones(8)}
    assert fit_latency(scores, table, 3.0) == {"a": 4}
    assert fit_latency(scores, table, 4.0) == {"a": 8}
    assert fit_latency(scores, table, 100.0) == {"a": 8}


def test_json_round_trip():
    table = measure_latency(GRAPH, SIZES, seconds)
    assert LatencyTable.from_json(table.to_json()) == table


def test_what_cannot_be_is_refused():
    table = LatencyTable(4.0, {"a": {1: 3.0, 2: 4.0}})
    with pytest.raises(ValueError, match=r"target 1 s is out of reach: .* take 3 s, unpruned 4 s"):
        fit_latency({"a": np.ones(2)}, table, 1.0)
    with pytest.raises(ValueError, match="'b' is not in the latency table"):
        fit_latency({"b": np.ones(2)}, table, 4.0)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        measure_latency(GRAPH, SIZES, seconds, keeps=(0.0,))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import groups, mask, trace
from slim.prune import Sensitivity, by_sensitivity, fit_widths, measure_sensitivity
from slim.prune.sensitivity import Point

PARAMS = {
    "first": jnp.ones((2, 6)),
    "second": jnp.ones((6, 10)),
    "third": jnp.ones((10, 3)),
}


def model(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["first"]) @ params["second"]) @ params["third"]


GRAPH = trace(model, PARAMS, jnp.ones((4, 2)))
SCORES = {g.name: np.arange(g.size, dtype=np.float32) for g in groups(GRAPH)}


def metric(plan):
    """The share of the output that is left; each unit of a layer gives an equal part."""
    x = jnp.ones((4, 2))
    return float(model(mask(plan, PARAMS), x).sum() / model(PARAMS, x).sum())


def test_each_group_is_pruned_alone():
    assert set(SCORES) == {"first:1", "second:1"}
    found = measure_sensitivity(GRAPH, SCORES, metric, keeps=(1.0, 0.5))
    assert found.baseline == 1
    whole, half = found.curves["second:1"]
    assert whole == Point(1.0, 10, 1.0, 0.0)
    # The lowest five scores of ten: 0 + 1 + 2 + 3 + 4.
    assert (half.keep, half.width, half.estimate) == (0.5, 5, 10.0)
    np.testing.assert_allclose(half.metric, 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.curves["first:1"][1].metric, 0.5, rtol=1e-6)


def test_every_group_keeps_a_unit():
    found = measure_sensitivity(GRAPH, SCORES, metric, keeps=(0.01,))
    assert [points[0].width for points in found.curves.values()] == [1, 1]


def curve(*metrics):
    return tuple(
        Point(keep, round(keep * 10), m, 0.0)
        for keep, m in zip((0.8, 0.5, 0.2), metrics, strict=True)
    )


def sensitivity(baseline, **curves):
    return Sensitivity(baseline, dict.fromkeys(curves, 10), curves)


def test_what_the_metric_does_not_need_goes_first():
    measured = sensitivity(0.9, tough=curve(0.9, 0.89, 0.5), frail=curve(0.7, 0.3, 0.1))
    scores = {name: np.ones(10) for name in measured.curves}
    order = by_sensitivity(measured)
    assert fit_widths(scores, lambda w: sum(w.values()), 15, distribution=order) == {
        "tough": 5,
        "frail": 10,
    }
    drops = order({name: np.ones(10) for name in scores})
    np.testing.assert_allclose(drops["frail"][:5], [0.1, 0.2, 0.2 + 0.4 / 3, 0.2 + 0.8 / 3, 0.6])
    # Below what was measured nothing is expected but the worst; rising noise counts as level.
    assert np.isinf(drops["frail"][8:]).all()
    noisy = by_sensitivity(sensitivity(0.9, x=curve(0.8, 0.85, 0.5)))({"x": np.ones(10)})["x"]
    assert (np.diff(noisy[:8]) >= 0).all()


def test_json_round_trip():
    measured = measure_sensitivity(GRAPH, SCORES, metric)
    assert Sensitivity.from_json(measured.to_json()) == measured


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        measure_sensitivity(GRAPH, SCORES, metric, keeps=(0.5, 0.0))
    with pytest.raises(ValueError, match="no group is named 'frist:1'"):
        measure_sensitivity(GRAPH, {"frist:1": np.ones(6)}, metric)
    with pytest.raises(ValueError, match="'b' was not measured; nearest: a"):
        by_sensitivity(sensitivity(1.0, a=curve(1.0, 1.0, 1.0)))({"b": np.ones(10)})
    with pytest.raises(ValueError, match=r"'a' was measured when it had 10 units, and it has 9"):
        by_sensitivity(sensitivity(1.0, a=curve(1.0, 1.0, 1.0)))({"a": np.ones(9)})

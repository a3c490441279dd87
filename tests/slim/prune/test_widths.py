import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.graph import cost, groups, mask, replay, shrink, trace
from slim.prune import (
    GROUP_DISTRIBUTIONS,
    NORMALISATIONS,
    SCORES,
    Limits,
    fit_widths,
    measure_gradients,
    plan_widths,
    score_groups,
    width_costs,
)
from slim.prune.widths import keep_highest

UNITS = {
    "a": np.array([5.0, 1.0, 4.0, 2.0, 8.0, 7.0, 3.0, 6.0]),
    "b": np.array([10.0, 12.0, 11.0, 9.0]),
}


def units(widths):
    return sum(widths.values())


def test_global_removes_the_lowest_wherever_they_are():
    assert fit_widths(UNITS, units, 6) == {"a": 2, "b": 4}
    assert fit_widths(UNITS, units, 3) == {"a": 1, "b": 2}  # not emptied


def test_uniform_removes_the_same_share():
    uniform = GROUP_DISTRIBUTIONS["uniform"]
    assert fit_widths(UNITS, units, 6, distribution=uniform) == {"a": 4, "b": 2}


def test_a_budget_that_is_met_removes_nothing():
    assert fit_widths(UNITS, units, 12) == {"a": 8, "b": 4}


def test_widths_are_rounded_up_to_multiples():
    assert fit_widths(UNITS, units, 9, default=Limits(round_to=4)) == {"a": 4, "b": 4}
    # A group smaller than the multiple stays whole.
    assert fit_widths(
        UNITS, units, 8, default=Limits(round_to=8, min_width=1), limits=[("a", Limits())]
    ) == {"a": 4, "b": 4}


def test_minimum_widths_hold():
    assert fit_widths(UNITS, units, 9, limits=[("a", Limits(min_width=6))]) == {"a": 6, "b": 3}


def test_fixed_ratios_hold():
    rules = [("b", Limits(keep=0.5)), ("a", Limits(keep=1.0))]
    assert fit_widths(UNITS, units, 12, limits=rules) == {"a": 8, "b": 2}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=12), min_size=1, max_size=4),
    st.floats(0.2, 1.0),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(sorted(GROUP_DISTRIBUTIONS)),
)
def test_budgets_are_met_and_not_undercut_for_nothing(lists, share, round_to, name):
    scores = {str(i): np.array(each) for i, each in enumerate(lists)}
    sizes = {name: each.size for name, each in scores.items()}
    limits = Limits(round_to=round_to)
    least = sum(limits.width(1, size) for size in sizes.values())
    target = max(least, share * units(sizes))
    widths = fit_widths(
        scores, units, target, distribution=GROUP_DISTRIBUTIONS[name], default=limits
    )
    assert units(widths) <= target
    for group, width in widths.items():
        assert width == sizes[group] or (width % round_to == 0 and 0 < width < sizes[group])
    # One step back in the order and the budget would be exceeded: at most one rounding lower.
    assert units(widths) > target - round_to or units(widths) == units(sizes)


def test_the_highest_are_kept_and_the_earlier_of_equals():
    kept = keep_highest({"a": np.array([1.0, 3.0, 3.0, 2.0, 3.0])}, {"a": 2})["a"]
    np.testing.assert_array_equal(kept, [1, 2])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"target": 1}, r"target 1 is out of reach: .* cost is 2, unpruned 12"),
        ({"limits": [("c", Limits())]}, "width rule 'c' matches no"),
        ({"limits": [("a", Limits(min_width=0))]}, "'a': min_width=0.*cannot be emptied"),
        ({"limits": [("a", Limits(keep=0.0))]}, r"'a': keep=0.0, must be in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fit_widths(UNITS, units, **({"target": 6} | kwargs))


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="'a' have a NaN"):
        fit_widths({"a": np.array([1.0, np.nan])}, units, 1)


def convolutional(params, x):
    """Convolution, grouped convolution, a scanned residual stack and a gated head."""
    dims = ("NHWC", "HWIO", "NHWC")

    def conv(x, kernel, groups=1):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups
        )

    x = jax.nn.relu(conv(x, params["stem"]))
    x = jax.nn.relu(conv(x, params["depthwise"], groups=x.shape[-1]))
    x = x.mean((1, 2))

    def block(x, layer):
        return x + jax.nn.relu(x @ layer["up"]) @ layer["down"], None

    x, _ = jax.lax.scan(block, x, params["stack"])
    gate, value = jnp.split(x @ params["glu"], 2, axis=-1)
    return jax.nn.sigmoid(gate) * value @ params["head"]


def parameters():
    shapes = {
        "stem": (3, 3, 3, 8),
        "depthwise": (3, 3, 1, 8),
        "stack": {"up": (2, 8, 12), "down": (2, 12, 8)},
        "glu": (8, 12),
        "head": (6, 4),
    }
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda s: isinstance(s, tuple))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return tree.unflatten([jax.random.normal(k, s) / 3 for k, s in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("kind", ["params", "macs", "bytes"])
def test_width_costs_are_the_shrunk_graphs(kind, share):
    params = parameters()
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    graph = trace(convolutional, params, x)
    found = groups(graph)
    scores = {g.name: np.random.default_rng(0).uniform(size=g.size) for g in found}
    of_widths = width_costs(graph)[kind]
    full = of_widths({})
    widths = fit_widths(scores, of_widths, share * full)
    assert of_widths(widths) <= share * full
    plan = plan_widths(graph, scores, widths)
    small = shrink(plan, params)
    counted = cost(trace(replay(graph, plan), small, x))
    expected = {"params": counted.params, "macs": counted.macs, "bytes": counted.param_bytes}
    assert of_widths(widths) == expected[kind]


def test_from_gradients_to_the_small_model():
    params = parameters()
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    graph = trace(convolutional, params, x)
    given = measure_gradients(
        lambda p, x: jnp.square(convolutional(p, x)).mean(), params, [x, 2 * x]
    )
    scores = score_groups(
        SCORES["taylor"], given, groups(graph), normalisation=NORMALISATIONS["mean"]
    )
    costs = width_costs(graph)
    rules = [("depthwise:3", Limits(keep=1.0))]
    widths = fit_widths(
        scores, costs["params"], 0.7 * costs["params"]({}), limits=rules, default=Limits(round_to=2)
    )
    assert widths["depthwise:3"] == 8
    assert all(width % 2 == 0 for width in widths.values())
    plan = plan_widths(graph, scores, widths)
    np.testing.assert_allclose(
        jax.jit(replay(graph, plan))(shrink(plan, params), x),
        convolutional(mask(plan, params), x),
        rtol=1e-4,
        atol=1e-6,
    )

"""Plans: what is refused, what is written, what is cut."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import Plan, check, frozen_groups, groups, make_plan, mask, replay, shrink, trace

PARAMS = {"up": jnp.arange(24.0).reshape(3, 8), "down": jnp.arange(16.0).reshape(8, 2)}
X = jnp.ones((4, 3))


def mlp(p, x):
    return jax.nn.relu(x @ p["up"]) @ p["down"]


GRAPH = trace(mlp, PARAMS, X)
PLAN = make_plan(GRAPH, {"up:1": [5, 0, 2]})


def test_shrink_takes_and_mask_zeroes():
    small, masked = shrink(PLAN, PARAMS), mask(PLAN, PARAMS)
    chex.assert_trees_all_equal(small["up"], PARAMS["up"][:, jnp.array([0, 2, 5])])
    chex.assert_trees_all_equal(small["down"], PARAMS["down"][jnp.array([0, 2, 5])])
    removed = np.array([1, 3, 4, 6, 7])
    assert not np.any(np.asarray(masked["up"])[:, removed])
    assert not np.any(np.asarray(masked["down"])[removed])
    chex.assert_trees_all_equal(shrink(PLAN, masked), small)


def test_shrink_works_on_shapes_and_numpy():
    shapes = shrink(PLAN, jax.eval_shape(lambda: PARAMS))
    assert shapes["up"] == jax.ShapeDtypeStruct((3, 3), jnp.float32)
    small = shrink(PLAN, jax.tree.map(np.asarray, PARAMS))
    assert isinstance(small["up"], np.ndarray)
    chex.assert_trees_all_equal(small, shrink(PLAN, PARAMS))


def test_shrink_finds_parameters_by_the_end_of_their_path():
    state = {"ema": PARAMS, "count": jnp.zeros(()), "other": jnp.ones((8, 8)), "rows": [X]}
    small = shrink(PLAN, state)
    chex.assert_trees_all_equal(small["ema"], shrink(PLAN, PARAMS))
    chex.assert_trees_all_equal(small["other"], state["other"])
    with pytest.raises(ValueError, match=r"'v/up' stands for .* \(3, 8\) but has shape \(8,\)"):
        shrink(PLAN, {"v": {"up": jnp.ones(8)}})


def test_json_restores_the_plan():
    again = Plan.from_json(PLAN.to_json())
    assert again.to_json() == PLAN.to_json()
    assert again.fingerprint == PLAN.fingerprint
    other = make_plan(GRAPH, {})
    assert other.fingerprint == PLAN.fingerprint
    assert other.to_json() != PLAN.to_json()
    chex.assert_trees_all_equal(shrink(again, PARAMS), shrink(PLAN, PARAMS))
    got = replay(GRAPH, again)(shrink(again, PARAMS), X)
    chex.assert_trees_all_close(got, mlp(mask(PLAN, PARAMS), X))


def test_products_and_sums_survive_json():
    params = {"qkv": jnp.ones((3, 24)), "out": jnp.ones((8, 2))}

    def fn(p, x):
        q, k, v = (part.reshape(4, 2, 4) for part in jnp.split(x @ p["qkv"], 3, axis=-1))
        return (jnp.einsum("bhd,bhd->bh", q, k)[..., None] * v).reshape(4, 8) @ p["out"]

    graph = trace(fn, params, X)
    sizes = {group.name: group.size for group in groups(graph)}
    assert sizes == {"qkv:1.0": 2, "qkv:1.1": 4, "qkv:1.2": 4}
    plan = make_plan(graph, {"qkv:1.0": [1], "qkv:1.1": [0, 3], "qkv:1.2": [2]})
    again = Plan.from_json(plan.to_json())
    np.testing.assert_array_equal(again.indices["qkv"][1], [4, 7, 12, 15, 22])
    assert again.layout == plan.layout
    chex.assert_trees_all_equal(shrink(again, params)["out"], params["out"][:1])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"up:1": []}, "one or more integers"),
        ({"up:1": [0.5]}, "one or more integers"),
        ({"up:1": [0, 8]}, "from 0 to 7"),
        ({"up:1": [1, 1]}, "from 0 to 7"),
        ({"up": [1]}, "no group is named 'up'; nearest: up:1"),
        ({"down:1": [0]}, "'down:1' may not be cut: the output"),
    ],
)
def test_bad_choices_are_refused(keep, message):
    with pytest.raises(ValueError, match=message):
        make_plan(GRAPH, keep)


def test_a_plan_that_was_altered_is_refused():
    with pytest.raises(ValueError, match="checksum does not match"):
        Plan.from_json(PLAN.to_json().replace("5", "6"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"up": PARAMS["up"]}, "it has 'down', the params do not"),
        ({**PARAMS, "gate": X}, "the params have 'gate'"),
        ({**PARAMS, "up": X}, r"'up' should have shape \(3, 8\) before the cut, not \(4, 3\)"),
    ],
)
def test_other_models_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        check(PLAN, params)
    with pytest.raises(ValueError, match=message):
        mask(PLAN, params)
    with pytest.raises(ValueError, match=message):
        replay(trace(lambda p, x: x, params, X), PLAN)


def test_full_parameters_in_the_small_function_are_refused():
    with pytest.raises(ValueError, match=r"should have shape \(8, 2\)|should have shape \(3, 2\)"):
        replay(GRAPH, PLAN)(PARAMS, X)


def test_members_index_products_and_repeats():
    params = {"w": jnp.ones((3, 12)), "out": jnp.ones((12, 2))}

    def fn(p, x):
        return jnp.concatenate([h := (x @ p["w"]).reshape(4, 2, 6)[:, 0], h], -1) @ p["out"]

    (group,) = (g for g in groups(trace(fn, params, X)) if g.size == 6)
    index = {(m.path, m.dim): m.index for m in group.members}
    np.testing.assert_array_equal(index["out", 0], np.stack([np.arange(6), np.arange(6) + 6], 1))
    np.testing.assert_array_equal(index["w", 1], np.stack([np.arange(6), np.arange(6) + 6], 1))


def test_frozen_groups_say_what_froze_them_and_where():
    def fn(p, x):
        return jax.nn.softmax(x @ p["up"]) @ p["down"]

    reasons = {group.name: group.frozen for group in frozen_groups(trace(fn, PARAMS, X))}
    assert set(reasons) == {"up:0", "up:1", "down:1"}
    assert "reduce_max at test_plan.py" in reasons["up:1"][0]
    assert reasons["up:0"] == ("input 0",)
    assert not groups(trace(fn, PARAMS, X))


def test_only_a_named_output_is_a_parameters_new_value():
    """Outputs at the position and of the shape of a parameter are still outputs."""
    x = jnp.ones((8, 8))
    for params in (jnp.ones((8, 8)), [jnp.ones((8, 8))]):
        graph = trace(lambda p, x: [x @ jax.tree.leaves(p)[0]], params, x)
        assert not groups(graph)
    named = trace(lambda p, x: {"w": p["w"] + x.sum()}, {"w": jnp.ones((8, 8))}, x)
    assert [group.name for group in groups(named)] == ["w:0", "w:1"]

"""What every score, distribution, structure and schedule promises, whoever wrote it."""

import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.prune import (
    DISTRIBUTIONS,
    GROUP_DISTRIBUTIONS,
    NORMALISATIONS,
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Evidence,
    Sensitivity,
    Window,
    apply_masks,
    by_sensitivity,
    choose_masks,
    fit_widths,
    score_weights,
)
from slim.prune.evidence import Leaf
from slim.prune.sensitivity import Point

# A quarter of either axis, one device's share, is tiled by every block and M in the table.
SHAPES = {"conv": (3, 3, 64, 32), "dense": (64, 64)}
KEEPS = (0.5, 0.7, 1.0)


def evidence(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)

    def weights():
        # Layers of unlike scale, as in a network.
        return {
            p: jnp.asarray(rng.normal(size=s) / math.sqrt(s[-1]), dtype) for p, s in SHAPES.items()
        }

    def positive(shape_of):
        return {p: jnp.asarray(rng.uniform(size=shape_of(s)), dtype) for p, s in SHAPES.items()}

    return Evidence(
        params=weights(),
        grads=weights(),
        squared_grads=positive(lambda shape: shape),
        input_norms=positive(lambda shape: (shape[-2], 1)),
        zero_fractions=positive(lambda shape: (shape[-2], 1)),
        key=jax.random.key(seed),
    )


def weight_scores(score, given):
    return score_weights(score, given, list(SHAPES))


def compiled_once(fn):
    """`jit` of a function that must not be traced for a second time."""
    jitted = jax.jit(fn)

    def call(*args):
        result = jitted(*args)
        assert jitted._cache_size() == 1
        return result

    return call


def over(table, names=None):
    names = list(table) if names is None else names
    return {"argvalues": [table[name] for name in names], "ids": names}


by_weight = pytest.mark.parametrize(
    "score", **over(SCORES, [name for name, score in SCORES.items() if score.weights])
)
every_distribution = pytest.mark.parametrize("distribution", **over(DISTRIBUTIONS))
every_schedule = pytest.mark.parametrize("make", **over(SCHEDULES))
MESH = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
SPECS = {
    "conv": PartitionSpec(None, None, "fsdp", "tensor"),
    "dense": PartitionSpec("tensor", "fsdp"),
}


def sharded(given):
    """Evidence over the mesh, every tree as the parameters; dimensions of size 1 are whole."""

    def place(path, leaf):
        names = zip(leaf.shape[::-1], SPECS[path][::-1], strict=False)
        spec = PartitionSpec(*[None if size == 1 else name for size, name in names][::-1])
        return jax.device_put(leaf, NamedSharding(MESH, spec))

    trees = {
        name: {path: place(path, leaf) for path, leaf in tree.items()}
        for name, tree in given._asdict().items()
        if isinstance(tree, dict)
    }
    return given._replace(**trees)


def assert_sharded(tree):
    for path, leaf in tree.items():
        sharding = NamedSharding(MESH, SPECS[path])
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), leaf.sharding


@pytest.mark.parametrize(
    "table",
    [SCORES, DISTRIBUTIONS, STRUCTURES, SCHEDULES, NORMALISATIONS, GROUP_DISTRIBUTIONS],
)
def test_tables_hold_distinct_methods(table):
    assert len({id(method) for method in table.values()}) == len(table) > 0


@pytest.mark.parametrize(("name", "score"), SCORES.items())
def test_scores_are_called_as_their_table_says(name, score):
    assert score.name == name
    assert set(score.needs) <= set(Evidence._fields) - {"params"}


@by_weight
def test_scores_of_weights(score):
    given = evidence()
    scores = weight_scores(score, given)
    for path, values in scores.items():
        chex.assert_shape(values, SHAPES[path])
        chex.assert_type(values, jnp.float32)
        assert (values >= 0).all()
        assert values.max() > values.min()

    jitted = compiled_once(lambda e: weight_scores(score, e))
    for seed in (0, 1):
        again = jitted(evidence(seed))
        chex.assert_trees_all_close(again, weight_scores(score, evidence(seed)), rtol=2e-5)
    abstract = jax.eval_shape(lambda e: weight_scores(score, e), given)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, scores)
    over_mesh = jax.jit(lambda e: weight_scores(score, e))(sharded(given))
    chex.assert_trees_all_close(over_mesh, scores, rtol=2e-5)
    assert_sharded(over_mesh)
    # Half-precision weights are scored in float32.
    chex.assert_type(list(weight_scores(score, evidence(dtype=jnp.bfloat16)).values()), jnp.float32)


@pytest.mark.parametrize(
    "score",
    # Random numbers belong to places, not to units.
    **over(SCORES, [n for n, s in SCORES.items() if s.weights and "key" not in s.needs]),
)
def test_scores_of_weights_move_with_their_units(score):
    given = evidence()
    order = jax.random.permutation(jax.random.key(9), SHAPES["dense"][-1])

    def permute(tree):
        return {
            p: a[..., order] if p == "dense" and a.shape[-1] > 1 else a for p, a in tree.items()
        }

    permuted = given._replace(
        **{name: permute(getattr(given, name)) for name in given._fields if name != "key"}
    )
    moved = weight_scores(score, permuted)["dense"]
    np.testing.assert_allclose(moved, weight_scores(score, given)["dense"][..., order], rtol=1e-5)


@pytest.mark.parametrize("score", **over(SCORES))
def test_scores_of_units(score):
    shape = (16, 24)
    keys = jax.random.split(jax.random.key(3), 5)
    measured = {
        name: jax.random.uniform(key, shape) for key, name in zip(keys, score.needs, strict=False)
    }

    def units(weight, measured):
        return score.finish(*score.terms(Leaf("norm/scale", weight, measured)))

    weight = jax.random.normal(keys[-1], shape)
    scores = units(weight, measured)
    chex.assert_shape(scores, (16,))
    chex.assert_type(scores, jnp.float32)
    assert (scores >= 0).all()
    chex.assert_trees_all_close(jax.jit(units)(weight, measured), scores, rtol=1e-4)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        jax.eval_shape(units, weight, measured), jax.eval_shape(lambda: scores)
    )
    order = jax.random.permutation(keys[0], 16)
    permuted = units(weight[order], {name: a[order] for name, a in measured.items()})
    np.testing.assert_allclose(permuted, scores[order], rtol=1e-4)


def masks_by(distribution, structure, score="l2"):
    """Evidence and a ratio to a loss of the masked parameters and their masks."""

    def masks(given, keep):
        return choose_masks(
            given,
            keep,
            score=SCORES[score],
            distribution=DISTRIBUTIONS[distribution],
            structure=STRUCTURES[structure],
        )

    return masks


def with_gradient(masks):
    """The masks, and the gradient of the sum of the squares of what they keep."""

    def loss(params, given, keep):
        found = masks(given._replace(params=params), keep)
        kept = jax.tree.leaves(apply_masks(found, params))
        return sum(jnp.square(leaf).sum() for leaf in kept) / 2, found

    def both(given, keep):
        grads, found = jax.grad(loss, has_aux=True)(given.params, given, keep)
        return found, grads

    return both


def check_masks(masks, distribution, structure):
    given = evidence()
    jitted = compiled_once(with_gradient(masks))
    found = []
    for keep in KEEPS:
        these, grads = jitted(given, keep)
        chex.assert_trees_all_equal_shapes(these, given.params)
        chex.assert_type(list(these.values()), bool)
        check_count(these, keep, distribution, structure)
        chex.assert_trees_all_equal(grads, apply_masks(these, given.params))
        found.append(these)
    for fewer, more in itertools.pairwise(found):
        assert not any((fewer[path] & ~more[path]).any() for path in SHAPES)
    abstract = jax.eval_shape(masks, given, jnp.float32(0.5))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, found[0])
    over_mesh = jax.jit(masks)(sharded(given), KEEPS[0])
    chex.assert_trees_all_equal(over_mesh, found[0])
    assert_sharded(over_mesh)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_masks(distribution, structure):
    check_masks(masks_by(distribution, structure), distribution, structure)


# Scores meet the others only as arrays: one partner does for all.
@by_weight
def test_masks_by_every_score(score):
    check_masks(masks_by("global", "unstructured", score.name), "global", "unstructured")


def test_masks_outside_jit_are_those_inside():
    masks = masks_by("erk", "unstructured")
    given = evidence()
    chex.assert_trees_all_equal(masks(given, 0.3), jax.jit(masks)(given, 0.3))


def check_count(masks, keep, distribution, structure):
    """As exact as the structure allows: each ranking rounds to the nearest whole block."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.size for mask in masks.values())
    if ":" in structure:
        m = int(structure.split(":")[1])
        assert kept == total * math.ceil(keep * m) // m
        return
    block = math.prod(int(n) for n in re.findall(r"\d+", structure))
    rankings = {"global": 1, "per_output": sum(shape[-1] for shape in SHAPES.values())}
    # The thousandth is for float32's rounding of erk's densities.
    assert abs(kept - keep * total) <= rankings.get(distribution, len(SHAPES)) * 0.501 * block


@every_schedule
def test_schedules(make):
    window = Window(begin=10, end=310, every=20)
    schedule = make(0.4, window)
    steps = jnp.arange(400)
    keeps = jax.vmap(schedule.keep)(steps)
    due = jax.vmap(schedule.due)(steps)
    chex.assert_type(keeps, jnp.float32)
    chex.assert_type(due, bool)
    assert (jnp.diff(keeps) <= 1e-7).all(), "the network only shrinks"
    assert (keeps[: window.begin] == 1).all()
    np.testing.assert_allclose(keeps[window.end :], 0.4, rtol=1e-6)
    assert due.any()
    assert not due[: window.begin].any()
    assert not due[window.end + 1 :].any()
    np.testing.assert_allclose(keeps[due][-1], 0.4, rtol=1e-6)

    for method, values in zip(schedule, (keeps, due), strict=True):
        jitted = compiled_once(method)
        for step in (0, 10, 150, 399):
            np.testing.assert_allclose(jitted(step), values[step], rtol=1e-6)
            np.testing.assert_allclose(method(step), values[step], rtol=1e-6)
        abstract = jax.eval_shape(method, jax.ShapeDtypeStruct((), jnp.int32))
        assert (abstract.shape, abstract.dtype) == ((), values.dtype)


@every_schedule
@pytest.mark.parametrize("keep", [0.0, 1.1])
def test_schedules_refuse_bad_ratios(make, keep):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        make(keep, Window(0, 100, 1))


@every_distribution
@pytest.mark.parametrize("keep", [0.0, -1.0, 1.1])
def test_distributions_refuse_bad_ratios(distribution, keep):
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        distribution({"w": jnp.ones((2, 2))}, {"w": (2, 2)}, keep)


@pytest.mark.parametrize("normalise", **over(NORMALISATIONS))
def test_normalisations(normalise):
    scores = jnp.array([3.0, 0.0, 1.0, 4.0, 2.0, 7.0, 6.0, 5.0])
    jitted = compiled_once(normalise)
    normal = jitted(scores)
    chex.assert_trees_all_close(normal, normalise(scores), rtol=1e-6)
    np.testing.assert_array_equal(jnp.argsort(normal), jnp.argsort(scores))
    assert (normal >= 0).all()
    np.testing.assert_array_equal(jitted(jnp.zeros(8)), 0)
    scale = float(normal[-1] / scores[-1])
    np.testing.assert_allclose(normal, scores * scale, rtol=1e-6)
    again = jitted(scores * 128)
    # Either of the scores as they are, or free of their scale.
    np.testing.assert_allclose(again, normal * (128 if scale == 1 else 1), rtol=1e-6)
    abstract = jax.eval_shape(normalise, jax.ShapeDtypeStruct((8,), jnp.float32))
    assert (abstract.shape, abstract.dtype) == ((8,), jnp.float32)
    sharding = NamedSharding(MESH, PartitionSpec("fsdp"))
    over_mesh = jax.jit(normalise)(jax.device_put(scores, sharding))
    chex.assert_trees_all_close(over_mesh, normal, rtol=1e-6)
    assert over_mesh.sharding.is_equivalent_to(sharding, 1)


GROUPS = {"a": np.arange(1.0, 9.0), "b": np.array([2.0, 3.0, 30.0, 40.0])}
MEASURED = Sensitivity(
    baseline=0.9,
    sizes={"a": 8, "b": 4},
    curves={
        "a": (Point(0.5, 4, 0.8, 10.0), Point(0.25, 2, 0.7, 21.0)),
        "b": (Point(0.5, 2, 0.6, 5.0),),
    },
)


@pytest.mark.parametrize(
    "distribution", **over({**GROUP_DISTRIBUTIONS, "sensitivity": by_sensitivity(MEASURED)})
)
def test_group_distributions(distribution):
    """They rank units on the host, before anything is compiled."""
    given = {name: scores.copy() for name, scores in GROUPS.items()}
    order = distribution(given)
    chex.assert_trees_all_equal(given, GROUPS)
    chex.assert_trees_all_equal(distribution(given), order)
    assert order.keys() == GROUPS.keys()
    for name, place in order.items():
        assert place.shape == GROUPS[name].shape
        assert not np.isnan(place).any()
        assert (place[1:] >= place[:-1]).all(), "the lowest of a group go first"
    # Device arrays do as well, in any order; the budget is met to the unit.
    shuffled = {name: jnp.asarray(scores[::-1]) for name, scores in GROUPS.items()}
    for target in range(2, 13):
        widths = fit_widths(shuffled, lambda w: sum(w.values()), target, distribution=distribution)
        assert sum(widths.values()) == target

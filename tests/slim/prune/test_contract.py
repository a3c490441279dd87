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
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Evidence,
    Window,
    choose_masks,
    score_weights,
)
from slim.prune.evidence import Leaf

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
# Each with a partner rather than all with all: they meet only through their signatures.
PAIRS = [(d, "unstructured") for d in DISTRIBUTIONS] + [
    ("global", s) for s in STRUCTURES if s != "unstructured"
]
every_pair = pytest.mark.parametrize(("distribution", "structure"), PAIRS)


@pytest.mark.parametrize("table", [SCORES, DISTRIBUTIONS, STRUCTURES, SCHEDULES])
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


def masks_by(distribution, structure):
    def masks(params, keep):
        return choose_masks(
            Evidence(params),
            keep,
            distribution=DISTRIBUTIONS[distribution],
            structure=STRUCTURES[structure],
        )

    return masks


@every_pair
def test_masks(distribution, structure):
    masks = masks_by(distribution, structure)
    params = evidence().params
    jitted = compiled_once(masks)
    found = [jitted(params, keep) for keep in KEEPS]
    for keep, these in zip(KEEPS, found, strict=True):
        chex.assert_trees_all_equal_shapes(these, params)
        chex.assert_type(list(these.values()), bool)
        check_count(these, keep, distribution, structure)
    for fewer, more in itertools.pairwise(found):
        assert not any((fewer[path] & ~more[path]).any() for path in SHAPES)
    abstract = jax.eval_shape(masks, params, jnp.float32(0.5))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, found[0])

    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {
        "conv": PartitionSpec(None, None, "fsdp", "tensor"),
        "dense": PartitionSpec("tensor", "fsdp"),
    }
    shardings = {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    sharded = jax.jit(masks)(jax.device_put(params, shardings), KEEPS[0])
    chex.assert_trees_all_equal(sharded, found[0])
    for path, mask in sharded.items():
        assert mask.sharding.is_equivalent_to(shardings[path], mask.ndim), mask.sharding


def test_masks_outside_jit_are_those_inside():
    masks = masks_by("erk", "unstructured")
    params = evidence().params
    chex.assert_trees_all_equal(masks(params, 0.3), jax.jit(masks)(params, 0.3))


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

"""What every loss promises, whoever wrote it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.distill import LOSSES
from tests.slim.distill.losses.values import kept, settings, value

RELATIONAL = ("rkd_distance", "rkd_angle", "similarity_preserving")
CASES = [(name, kind) for name, loss in LOSSES.items() for kind in loss.compares]
every = pytest.mark.parametrize(("name", "kind"), [(n, LOSSES[n].compares[0]) for n in LOSSES])


@functools.cache
def gradients(name):
    """(student, teacher, settings) -> the loss and both gradients; compiled once for all tests."""
    loss = LOSSES[name]

    def both(student, teacher, given):
        def floating(student, values):
            return loss.value(student, rebuilt(teacher, values), **given)

        values = [leaf for leaf in jax.tree.leaves(teacher) if is_float(leaf)]
        return jax.value_and_grad(floating, argnums=(0, 1))(student, values)

    return jax.jit(both)


def is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def rebuilt(teacher, values):
    """The teacher's value with its floating leaves replaced."""
    values = iter(values)
    return jax.tree.map(lambda leaf: next(values) if is_float(leaf) else leaf, teacher)


def test_table():
    assert [loss.name for loss in LOSSES.values()] == list(LOSSES)


@every
def test_pure_under_jit_without_a_second_compilation(name, kind):
    loss = LOSSES[name]
    # A function of its own: `jit` shares the programs of one function among all its users.
    jitted = jax.jit(lambda student, teacher, given: loss.value(student, teacher, **given))
    student, full, given = value(kind, 0), value(kind, 1), settings(loss)
    teacher = kept(kind, full)
    result = jitted(student, teacher, given)
    np.testing.assert_allclose(loss.value(student, teacher, **given), result, rtol=1e-5)
    assert jitted(full, teacher, given) < 1e-6 < result
    if "temperature" in given:
        assert jitted(student, teacher, given | {"temperature": np.float32(3)}) != result
    assert jitted._cache_size() == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_abstract_evaluation(name, kind, dtype):
    loss = LOSSES[name]
    student, teacher = jax.eval_shape(
        lambda: (value(kind, 0, dtype=dtype), kept(kind, value(kind, 1, dtype=dtype)))
    )
    result = jax.eval_shape(
        lambda s, t, given: loss.value(s, t, **given), student, teacher, settings(loss)
    )
    assert (result.shape, result.dtype) == ((), jnp.float32)


@every
def test_gradients_reach_the_student_only(name, kind):
    student, teacher = value(kind, 0), kept(kind, value(kind, 1))
    _, (of_student, of_teacher) = gradients(name)(student, teacher, settings(LOSSES[name]))
    assert np.isfinite(of_student).all()
    assert (np.abs(of_student).reshape(8, -1).max(axis=1) > 0).all()
    assert all((leaf == 0).all() for leaf in of_teacher)


@every
def test_gradient_is_the_slope(name, kind):
    student, teacher, direction = value(kind, 0), kept(kind, value(kind, 1)), value(kind, 2)
    direction -= direction.mean(axis=-1, keepdims=True)  # probabilities still sum to 1
    run, given, step = gradients(name), settings(LOSSES[name]), np.float32(2e-3)
    _, (gradient, _) = run(student, teacher, given)
    up, down = (run(student + sign * step * direction, teacher, given)[0] for sign in (1, -1))
    np.testing.assert_allclose(
        (up - down) / (2 * step), np.vdot(gradient, direction), rtol=1e-2, atol=5e-4
    )


@every
@pytest.mark.parametrize("batch", [1, 8])
def test_agreement_costs_nothing_and_has_a_finite_gradient(name, kind, batch):
    student = value(kind, 0, batch)
    given = settings(LOSSES[name], batch)
    loss, (gradient, _) = gradients(name)(student, kept(kind, student), given)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@every
def test_zeros_and_equal_examples_have_a_finite_gradient(name, kind):
    given = settings(LOSSES[name])
    alike = np.repeat(value(kind, 0, 1), 8, axis=0)
    for student in (np.zeros_like(alike), alike):
        for teacher in (np.zeros_like(alike), alike, value(kind, 1)):
            loss, (gradient, _) = gradients(name)(student, kept(kind, teacher), given)
            assert np.isfinite(loss)
            assert np.isfinite(gradient).all()


@every
def test_batch_of_one(name, kind):
    loss, (gradient, _) = gradients(name)(
        value(kind, 0, 1), kept(kind, value(kind, 1, 1)), settings(LOSSES[name], 1)
    )
    assert loss < 1e-12 if name in RELATIONAL else loss > 1e-3
    assert np.isfinite(gradient).all()


@every
def test_bfloat16_is_computed_in_float32(name, kind):
    student, teacher = (value(kind, seed, dtype=jnp.bfloat16) for seed in (0, 1))
    given = settings(LOSSES[name])
    result, (gradient, _) = gradients(name)(student, kept(kind, teacher), given)
    assert gradient.dtype == jnp.bfloat16
    student, teacher = (x.astype(jnp.float32) for x in (student, teacher))
    expected, (full, _) = gradients(name)(student, kept(kind, teacher), given)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    chex.assert_trees_all_close(gradient.astype(jnp.float32), full, rtol=2**-8, atol=1e-7)


@every
def test_sharded_batches(name, kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_example = NamedSharding(mesh, PartitionSpec("data"))
    student, teacher = value(kind, 0), kept(kind, value(kind, 1))
    given = settings(LOSSES[name])
    expected, (of_student, _) = gradients(name)(student, teacher, given)

    whole = {key: x for key, x in given.items() if key == "temperature"}
    split = {key: x for key, x in given.items() if key not in whole}
    student, teacher, split = jax.device_put((student, teacher, split), by_example)
    compiled = gradients(name).lower(student, teacher, whole | split).compile()
    result, (gradient, _) = compiled(student, teacher, whole | split)
    assert result.sharding.is_fully_replicated
    assert gradient.sharding.is_equivalent_to(by_example, gradient.ndim)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, of_student, rtol=1e-4, atol=1e-6)
    # Only sums cross devices, unless it is examples that are compared.
    moves = ("all-gather", "all-to-all", "collective-permute")
    assert name in RELATIONAL or not any(move in compiled.as_text() for move in moves)


@every
def test_masked_examples_are_as_if_absent(name, kind):
    run, rows = gradients(name), np.array([0, 2, 3, 6])
    student, teacher = value(kind, 0), jax.tree.map(np.array, kept(kind, value(kind, 1)))
    given = settings(LOSSES[name])
    few = {key: x if x.ndim == 0 else x[rows] for key, x in given.items()}
    expected, _ = run(student[rows], jax.tree.map(lambda leaf: leaf[rows], teacher), few)

    absent = np.delete(np.arange(8), rows)
    for leaf in jax.tree.leaves((student, teacher)):
        leaf[absent] = np.nan if is_float(leaf) else 10**6
    mask = np.isin(np.arange(8), rows)
    if kind == "attention":  # whose masks are of tokens
        mask = np.repeat(mask[:, None], student.shape[2], axis=1)
    result, (gradient, _) = run(student, teacher, given | {"mask": mask})
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[absent] == 0).all()

    result, (gradient, _) = run(student, teacher, given | {"mask": np.zeros_like(mask)})
    assert result == 0
    assert (gradient == 0).all()


@every
def test_shapes_that_do_not_fit_are_refused(name, kind):
    loss, student = LOSSES[name], value(kind, 0)
    given = settings(loss)
    for teacher in (value(kind, 1)[:4], value(kind, 1)[0]):
        with pytest.raises(ValueError, match=rf"{name}: student .*{student.shape[-1]}\).*need"):
            loss.value(student, kept(kind, teacher), **given)
    with pytest.raises(ValueError, match=rf"{name}: mask \(7,\), student .* need"):
        loss.value(student, kept(kind, value(kind, 1)), **given, mask=jnp.ones(7))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", [n for n, loss in LOSSES.items() if "temperature" in loss.settings]
)
def test_temperatures_that_are_none_are_refused(name, temperature):
    loss = LOSSES[name]
    kind = loss.compares[0]
    given = settings(loss) | {"temperature": temperature}
    with pytest.raises(ValueError, match=f"{name}: temperature = {temperature} must be positive"):
        loss.value(value(kind, 0), kept(kind, value(kind, 1)), **given)

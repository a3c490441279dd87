import jax
import numpy as np
import pytest

from slim.distill import LAYER_MAPS, LOSSES, fixed, layer_loss
from slim.distill.layers import last, learned, uniform
from tests.slim.distill.losses.references import l2

by_name = pytest.mark.parametrize("name", LAYER_MAPS)


def layers(depth, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(4, 3, 6)).astype(np.float32) for _ in range(depth)]


@by_name
@pytest.mark.parametrize(("student", "teacher"), [(1, 1), (2, 6), (4, 6), (6, 6)])
def test_every_student_layer_has_weight_1(name, student, teacher):
    layer_map = LAYER_MAPS[name](student, teacher)
    weights = np.asarray(jax.jit(layer_map.weights)(layer_map.init()))
    assert weights.shape == (len(layer_map.pairs),)
    total = np.bincount([m for m, _ in layer_map.pairs], weights=weights, minlength=student)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert (student - 1, teacher - 1) in layer_map.pairs
    assert len({m for m, _ in layer_map.pairs}) == student


@by_name
def test_loss_under_jit_and_from_shapes(name):
    layer_map, student, teacher = LAYER_MAPS[name](3, 6), layers(3), layers(6, seed=1)

    @jax.jit
    def loss(params, student, teacher):
        return layer_loss(layer_map, params, LOSSES["l2"].value, student, teacher)

    result = loss(layer_map.init(), student, teacher)
    expected = sum(
        weight * l2(student[m], teacher[n])
        for weight, (m, n) in zip(layer_map.weights(layer_map.init()), layer_map.pairs, strict=True)
    )
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    shape = jax.eval_shape(loss, layer_map.init(), student, teacher)
    assert (shape.shape, shape.dtype) == (result.shape, result.dtype) == ((), np.float32)


def test_tinyberts_map_of_12_layers():
    assert uniform(4, 12).pairs == ((0, 2), (1, 5), (2, 8), (3, 11))  # g(m) = 3m
    assert uniform(6, 12).pairs == tuple((m, 2 * m + 1) for m in range(6))


def test_depths_that_do_not_divide():
    assert uniform(4, 6).pairs == ((0, 0), (1, 2), (2, 3), (3, 5))


def test_last():
    assert last(4, 12).pairs == ((0, 8), (1, 9), (2, 10), (3, 11))
    assert last(4, 12, count=2).pairs == ((2, 10), (3, 11))


def test_several_teachers_of_one_layer_share_its_weight():
    layer_map = fixed([(0, 1), (0, 3), (1, 5)], 2, 6)
    np.testing.assert_array_equal(layer_map.weights(()), [0.5, 0.5, 1])


def test_learned_weights_move_to_the_layer_that_is_matched():
    layer_map, student, teacher = learned(2, 3), layers(2), layers(3, seed=1)
    teacher[2] = student[0]

    @jax.jit
    @jax.grad
    def moving(params):
        return layer_loss(layer_map, params, LOSSES["l2"].value, student, teacher)

    gradient = moving(layer_map.init())
    assert gradient.shape == (2, 3)
    assert np.argmin(gradient[0]) == 2
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("make", [uniform, last])
@pytest.mark.parametrize("depths", [(7, 6), (0, 6)])
def test_students_that_are_too_deep_are_refused(make, depths):
    with pytest.raises(ValueError, match=rf"student of {depths[0]} layers, teacher of 6"):
        make(*depths)


@pytest.mark.parametrize("count", [0, 4])
def test_counts_out_of_range_are_refused(count):
    with pytest.raises(ValueError, match=rf"count = {count}: must be in \[1, 3\]"):
        last(3, 6, count=count)


def test_layers_out_of_range_are_refused():
    message = r"\[\(0, 6\), \(-1, 0\), \(2, 1\)\] out of range; .*\[0, 2\).*\[0, 6\)"
    with pytest.raises(ValueError, match=message):
        fixed([(0, 6), (1, 5), (-1, 0), (2, 1)], 2, 6)
    with pytest.raises(ValueError, match="no pair"):
        fixed([], 2, 6)
    with pytest.raises(ValueError, match="no pair"):
        learned(0, 6)
    with pytest.raises(ValueError, match=r"\(1, 3\), \(2, 5\)\] out of range"):
        layer_loss(uniform(3, 6), (), LOSSES["l2"].value, layers(3), layers(3))

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.distill import LOSSES, init_projection, project

KEY = jax.random.key(0)


@pytest.mark.parametrize("leading", [(4,), (4, 5), (4, 3, 2)])
def test_every_position_is_projected_alike(leading):
    params = init_projection(KEY, (*leading, 6), (*leading, 8))
    params["bias"] += 1
    x = np.random.default_rng(0).normal(size=(*leading, 6)).astype(np.float32)
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    expected = np.reshape([row @ kernel + bias for row in x.reshape(-1, 6)], (*leading, 8))
    np.testing.assert_allclose(jax.jit(project)(params, x), expected, rtol=1e-5, atol=1e-5)


def test_initialization():
    params = init_projection(KEY, (1, 1, 512), (1, 1, 256))
    np.testing.assert_allclose(params["kernel"].std(), 512**-0.5, rtol=2e-2)
    assert (params["bias"] == 0).all()
    assert all(leaf.dtype == jnp.float32 for leaf in params.values())
    shapes = jax.eval_shape(lambda key: init_projection(key, (1, 1, 512), (1, 1, 256)), KEY)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)


def test_equal_widths_need_none():
    x = jnp.ones((4, 5, 6), jnp.bfloat16)
    assert init_projection(KEY, (4, 5, 6), (4, 5, 6)) == {}
    assert project({}, x) is x


def test_a_rotated_and_widened_teacher_is_learned():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 4, 6)), jnp.float32)
    teacher = x @ jnp.asarray(rng.normal(size=(6, 8)), jnp.float32) + 1

    @jax.jit
    def step(params, _):
        def loss(params):
            return LOSSES["l2"].value(project(params, x), teacher)

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 2 * g, params, gradient), value

    params = init_projection(KEY, x.shape, teacher.shape)
    _, losses = jax.lax.scan(step, params, length=100)
    assert losses[0] > 1
    assert losses[-1] < 1e-6


def test_bfloat16_features_are_projected_in_float32():
    params = init_projection(KEY, (4, 6), (4, 8))
    x = jnp.ones((4, 6), jnp.bfloat16)
    np.testing.assert_array_equal(project(params, x), project(params, x.astype(jnp.float32)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 8, 8, 6\) to \(4, 4, 4, 8\): need"):
        init_projection(KEY, (4, 8, 8, 6), (4, 4, 4, 8))
    params = init_projection(KEY, (4, 6), (4, 8))
    with pytest.raises(ValueError, match=r"width 6 to 8 was given features \(4, 7\)"):
        project(params, jnp.ones((4, 7)))

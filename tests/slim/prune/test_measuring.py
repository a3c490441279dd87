"""Evidence measured from gradients and activations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph import groups, trace
from slim.prune import SCORES, measure_activations, measure_gradients, score_groups

RNG = np.random.default_rng(0)
X = [jnp.asarray(RNG.normal(size=(4, 6, 6, 3)).astype(np.float32)) for _ in range(3)]
DIMS = ("NHWC", "HWIO", "NHWC")


def test_gradients_are_averaged_over_batches():
    params = {"w": jnp.asarray(RNG.normal(size=(3, 2)).astype(np.float32))}
    batches = [x[:, 0, 0] for x in X]

    def loss(params, batch):
        return jnp.square(jnp.tanh(batch @ params["w"])).mean()

    grads = np.stack([jax.grad(loss)(params, batch)["w"] for batch in batches])
    found = measure_gradients(loss, params, batches)
    np.testing.assert_allclose(found.grads["w"], grads.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.squared_grads["w"], (grads**2).mean(0), rtol=1e-5)
    chex.assert_trees_all_equal(found.params, params)


def model(params, x):
    """Convolution with stride, ReLU, a scanned stack, and a product with the kernel on the left."""
    x = jax.lax.conv_general_dilated(x, params["conv"], (2, 2), "SAME", dimension_numbers=DIMS)
    x = jax.nn.relu(x + params["bias"]).mean((1, 2))
    x, _ = jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, params["stack"])
    return jax.checkpoint(lambda w, x: w.reshape(2, 4).astype(jnp.float32) @ x.T)(params["head"], x)


def init_params():
    def draw(*shape):
        return jnp.asarray(RNG.normal(size=shape).astype(np.float32))

    return {"conv": draw(3, 3, 3, 4), "bias": draw(4), "stack": draw(2, 4, 4), "head": draw(8)}


PARAMS = init_params()


def activations():
    """What each kernel of `model` meets, by hand: patches (windows, 3, 3, 3) and rows."""
    patches, rows = [], [[], [], []]
    for x in X:
        # XLA's SAME for stride 2, kernel 3 on 6 pixels: one row of padding, at the end.
        padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        for i in range(0, 6, 2):
            for j in range(0, 6, 2):
                patches.append(padded[:, i : i + 3, j : j + 3])
        y = jax.lax.conv_general_dilated(x, PARAMS["conv"], (2, 2), "SAME", dimension_numbers=DIMS)
        y = jax.nn.relu(y + PARAMS["bias"]).mean((1, 2))
        for layer in range(2):
            rows[layer].append(y)
            y = jax.nn.relu(y @ PARAMS["stack"][layer])
        rows[2].append(y)
    return np.concatenate(patches), [np.concatenate(each) for each in rows]


def test_activations_are_those_that_each_weight_meets():
    found = measure_activations(model, PARAMS, [(x,) for x in X])
    patches, rows = activations()
    norms = np.broadcast_to(found.input_norms["conv"], (3, 3, 3, 4))
    for output in range(4):
        np.testing.assert_allclose(norms[..., output], np.sqrt((patches**2).sum(0)), rtol=1e-4)
    for layer in range(2):
        expected = np.sqrt((rows[layer] ** 2).sum(0))[:, None]
        np.testing.assert_allclose(found.input_norms["stack"][layer], expected, rtol=1e-4)
        np.testing.assert_allclose(
            np.broadcast_to(found.zero_fractions["stack"], (2, 4, 1))[layer],
            (rows[layer] == 0).mean(0)[:, None],
            atol=1e-6,
        )
    # The flat kernel is (outputs, inputs) where it is used.
    expected = np.tile(np.sqrt((rows[2] ** 2).sum(0)), 2)
    np.testing.assert_allclose(found.input_norms["head"], expected, rtol=1e-4)
    assert found.input_norms["bias"] is None
    assert found.zero_fractions["bias"] is None


def test_what_is_constant_along_a_dimension_has_size_one_there():
    found = measure_activations(model, PARAMS, [(X[0],)])
    assert found.input_norms["conv"].shape == (3, 3, 3, 1)
    assert found.input_norms["stack"].shape == (2, 4, 1)


def test_wanda_and_apoz_rate_any_functions_units():
    def perceptron(params, x):
        return jax.nn.relu(x @ params["up"]) @ params["down"]

    params = {"up": jnp.ones((3, 5)).at[:, 1].set(-1.0), "down": jnp.ones((5, 2))}
    x = jnp.abs(X[0][:, 0, 0])
    given = measure_activations(perceptron, params, [(x,)])
    found = groups(trace(perceptron, params, x))
    apoz = score_groups(SCORES["apoz"], given, found)["up:1"]
    np.testing.assert_array_equal(apoz, [1, 0, 1, 1, 1])
    wanda = score_groups(SCORES["wanda"], given, found)["up:1"]
    hidden = np.linalg.norm(jax.nn.relu(x @ params["up"]), axis=0)
    incoming = np.linalg.norm(x, axis=0).sum()
    np.testing.assert_allclose(wanda, 2 * hidden + incoming, rtol=1e-5)


def test_half_precision_activations_are_summed_in_float32():
    params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    x = jnp.full((4096, 2), 0.5, jnp.bfloat16)
    found = measure_activations(lambda p, x: x @ p["w"], params, [(x,)])
    np.testing.assert_allclose(found.input_norms["w"], 32.0, rtol=1e-2)


@pytest.mark.parametrize("measure", [measure_gradients, measure_activations])
def test_no_batches_are_refused(measure):
    with pytest.raises(ValueError, match="batches is empty"):
        measure(model, PARAMS, [])

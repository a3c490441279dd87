"""Every reference model, cut at random: the small function is the masked one."""

import jax
import jax.numpy as jnp
import pytest

from slim import models
from tests.slim.graph.exactness import assert_exact, random_like

# The others in the slow run: compiling them takes longer than all else here.
EVERY_RUN = ("mlp", "resnet8", "vit_ti")


def model(name, batch=2, size=32):
    module = models.create(name, num_classes=10)
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros(images.shape), train=False), jax.random.key(0)
    )
    return module, random_like(variables), random_like(images, seed=1)


@pytest.mark.parametrize("name", EVERY_RUN)
def test_small_outputs_are_masked_outputs(name):
    module, variables, images = model(name)
    found = assert_exact(
        lambda v, x: module.apply(v, x, train=False), variables, images, gradients=False
    )
    assert found


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_small_outputs_and_gradients_are_masked_ones(name):
    module, variables, images = model(name)
    assert_exact(lambda v, x: module.apply(v, x, train=False), variables, images)

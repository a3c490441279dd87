"""The reference models, cut at random: the small function is the masked one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import models
from slim.graph import groups, make_plan, replay, shrink, trace
from slim.models.vit import ViT
from tests.slim.graph.exactness import assert_exact, random_like

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

# One of each kind that compiles fast; the slow run has them all.
EVERY_RUN = {
    "mlp": models.create("mlp", num_classes=10),
    "resnet8": models.create("resnet8", num_classes=10),
    "vit": ViT(width=48, depth=2, heads=3, num_classes=10, patch_size=8),
}


def shapes(module):
    """The shapes of a model's variables."""
    return jax.eval_shape(
        lambda key: module.init(key, jnp.zeros(IMAGES.shape), train=False), jax.random.key(0)
    )


def evaluation(module):
    return lambda variables, images: module.apply(variables, images, train=False)


@pytest.mark.parametrize("name", EVERY_RUN)
def test_small_outputs_are_masked_outputs(name):
    module = EVERY_RUN[name]
    images = random_like(IMAGES, seed=1)
    variables = random_like(shapes(module))
    assert assert_exact(evaluation(module), variables, images, gradients=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.IMAGE_MODELS)
def test_small_outputs_and_gradients_are_masked_ones(name, monkeypatch):
    """Outputs in single precision, to 1e-5; they and the gradients in double, to 1e-9.

    In single, rounding alone moves gradients by up to 4e-5 (vit_ti; resnet110: 6e-6).
    """
    images = random_like(IMAGES, seed=1)
    module = models.create(name, num_classes=10)
    variables = random_like(shapes(module))
    assert_exact(evaluation(module), variables, images, gradients=False)
    # What the models compute in single precision whatever their dtype (norms, softmax, logits).
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        module = models.create(name, num_classes=10, dtype=jnp.float64)
        variables, images = jax.tree.map(np.float64, (variables, images))
        assert_exact(evaluation(module), variables, images, tolerance=1e-9)
    jax.clear_caches()


def test_the_small_function_costs_what_a_hand_written_one_does():
    """Half of every width: the program is that of the model written at half the width."""
    module = EVERY_RUN["resnet8"]
    graph = trace(evaluation(module), shapes(module), IMAGES)
    plan = make_plan(graph, {group.name: range(group.size // 2) for group in groups(graph)})
    written = models.create("resnet8", num_classes=10, width=8)
    small = shrink(plan, shapes(module))
    assert small == shapes(written)
    ours, theirs = (
        jax.jit(fn).lower(small, IMAGES).cost_analysis()
        for fn in (replay(graph, plan), evaluation(written))
    )
    assert ours["flops"] <= theirs["flops"]
    assert ours["bytes accessed"] <= theirs["bytes accessed"]

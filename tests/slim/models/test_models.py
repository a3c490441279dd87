"""The contract that every model of images keeps, and the papers' numbers of parameters."""

from functools import cache
from math import prod

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models import IMAGE_MODELS, create
from slim.models.mlp import MLP
from slim.models.mobilenet_v2 import InvertedResidual
from slim.models.mobilenet_v3 import LARGE, MobileNetV3
from slim.models.mobilenet_v3 import SMALL as SMALL_ROWS
from slim.models.resnet import CifarResNet, ImageNetResNet
from slim.models.vit import ViT
from slim.paths import flatten, map_with_path

# On 224 x 224 x 3 and 1,000 classes: torchvision's counts; DeiT's for ViT-Ti and S.
# On 32 x 32 x 3 and 10 classes: table 6 of arXiv:1512.03385 (0.27M, 0.46M, 0.66M, 0.85M, 1.7M).
PARAMETERS = {
    "resnet8": 75_290,
    "resnet14": 172_506,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "vit_ti": 5_717_416,
    "vit_s": 22_050_664,
    "vit_b": 86_567_656,
    "mlp": (784 * 512 + 512) + (512 * 512 + 512) + (512 * 10 + 10),
}

# Multiply-adds and their tolerance, in units of 1e6: torchvision's for its models, to the three or
# four digits that it prints; MobileNetV3's from its table 3; DeiT's; about 41M and 126M for CIFAR.
MULTIPLY_ADDS = {
    "resnet20": (40.5, 0.5),
    "resnet56": (125.5, 0.5),
    "resnet18": (1814, 5),
    "resnet34": (3664, 5),
    "resnet50": (4089, 5),
    "resnet101": (7801, 5),
    "mobilenet_v2": (300, 5),
    "mobilenet_v3_large": (219, 5),
    "mobilenet_v3_small": (56, 2),
    "vit_ti": (1258, 10),
    "vit_s": (4608, 10),
    "vit_b": (17564, 20),
}


def problem(name):
    """The shape of one image and the number of classes that the paper has for the model."""
    if name == "mlp":
        return (28, 28, 1), 10
    if name.startswith("resnet") and name not in ("resnet18", "resnet34", "resnet50", "resnet101"):
        return (32, 32, 3), 10
    return (224, 224, 3), 1000


@cache
def shapes(model, image, batch=1, dtype=jnp.float32):
    images = jax.ShapeDtypeStruct((batch, *image), dtype)
    init = lambda key, images: model.init(key, images, train=False)  # noqa: E731
    return images, jax.eval_shape(init, jax.random.key(0), images)


def multiply_adds(jaxpr):
    """Multiplications in the convolutions and matrix products of a jaxpr."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            spec = eqn.params["dimension_numbers"].rhs_spec
            kernel = eqn.invars[1].aval.shape
            total += prod(eqn.outvars[0].aval.shape) * prod(kernel) // kernel[spec[0]]
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            operand = eqn.invars[0].aval.shape
            total += prod(eqn.outvars[0].aval.shape) * prod(operand[d] for d in contracted)
        for value in eqn.params.values():
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                total += multiply_adds(value.jaxpr)
    return total


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_parameters_are_as_many_as_the_paper_has(name):
    image, classes = problem(name)
    _, variables = shapes(create(name, num_classes=classes), image)
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds_are_as_many_as_published(name):
    """What strides and padding change, and numbers of parameters do not show."""
    image, classes = problem(name)
    model = create(name, num_classes=classes)
    images, variables = shapes(model, image)
    traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
    published, tolerance = MULTIPLY_ADDS[name]
    assert multiply_adds(traced.jaxpr) / 1e6 == pytest.approx(published, abs=tolerance)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_logits_and_variables_are_float32_where_bfloat16_is_computed_in(name):
    (*_, channels), classes = problem(name)
    model = create(name, num_classes=classes, dtype=jnp.bfloat16)
    images, variables = shapes(model, (32, 32, channels), batch=2, dtype=jnp.bfloat16)
    logits, updates = jax.eval_shape(
        lambda v, x, key: model.apply(
            v, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        ),
        variables,
        images,
        jax.random.key(0),
    )
    assert (logits.shape, logits.dtype) == ((2, classes), jnp.float32)
    assert updates.get("batch_stats", {}) == variables.get("batch_stats", {})
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


# Every kind of block once, few enough of them to compile in seconds.
SMALL = {
    "mlp": MLP(3, hidden=(8,)),
    "resnet, padded shortcuts": CifarResNet(8, 3, width=4),
    "resnet, basic blocks": ImageNetResNet((1, 1), False, 3, width=4, stem="small"),
    "resnet, bottlenecks": ImageNetResNet((1, 1), True, 3, width=4),
    "mobilenet v2, block": InvertedResidual(6, 2, stride=1),
    "mobilenet v3": MobileNetV3((LARGE[0], LARGE[3], LARGE[6], SMALL_ROWS[8]), 16, 3, 0.2),
    "vit": ViT(8, 1, 2, 3, patch_size=5, dropout=0.1),
}


def random_problem(model):
    """Images of odd sides, where every stride meets a remainder, and variables of order one."""
    _, abstract = shapes(model, (15, 25, 2))
    rng = np.random.default_rng(0)
    variables = map_with_path(
        lambda path, leaf: (
            rng.uniform(0.5, 1.5, leaf.shape)
            if path.endswith(("/var", "/scale"))
            else rng.normal(0, prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        ).astype(np.float32),
        abstract,
    )
    return rng.normal(size=(4, 15, 25, 2)).astype(np.float32), variables


@pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)
def test_a_training_step_moves_every_parameter_and_statistic(model):
    images, variables = random_problem(model)
    statistics = variables.get("batch_stats", {})

    @jax.jit
    def gradient(params):
        def loss(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": statistics},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )
            return jax.nn.logsumexp(logits, axis=-1).mean(), updates

        return jax.grad(loss, has_aux=True)(params)

    gradients, updates = gradient(variables["params"])
    chex.assert_tree_all_finite((gradients, updates))
    for path, value in flatten(gradients).items():
        # A constant added to every key moves every score of a query alike: softmax ignores it.
        assert np.any(value) or path.endswith("attention/key/bias"), path
    for path, value in flatten(updates.get("batch_stats", {})).items():
        assert np.any(value != flatten(statistics)[path]), path


@pytest.mark.parametrize("name", ["resnet, padded shortcuts", "mobilenet v3", "vit"])
def test_bfloat16_logits_are_near_float32_logits(name):
    model = SMALL[name]
    images, variables = random_problem(model)
    exact, rounded = (
        jax.jit(lambda v, model=m: model.apply(v, images, train=False))(variables)
        for m in (model, model.clone(dtype=jnp.bfloat16))
    )
    assert np.any(exact != rounded)
    chex.assert_trees_all_close(exact, rounded, atol=0.03 * np.std(exact))


def test_models_without_batch_normalization_or_dropout_need_no_extra_collections():
    model = create("mlp", num_classes=3)
    variables = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)), train=False)
    assert list(variables) == ["params"]
    chex.assert_shape(model.apply(variables, jnp.ones((5, 4, 4, 1)), train=True), (5, 3))

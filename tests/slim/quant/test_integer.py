"""Integer execution equals simulation, on programs and on models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import models
from slim.graph import rewrite, trace
from slim.quant.calibrate import calibrate
from slim.quant.integer import convert, execute, run_site
from slim.quant.numerics import dequantize, fake_quantize
from slim.quant.policy import Activations, Policy, Rule, Weights, assign
from slim.quant.simulate import simulate
from tests.slim.quant.programs import KEY, PROGRAMS, normal

SPECS = {
    "w8a8": (Weights(), Activations()),
    "w8a8 symmetric": (Weights(), Activations(symmetric=True)),
    "w8au8": (Weights(), Activations("uint8")),
    "w8au8 symmetric": (Weights(), Activations("uint8", symmetric=True)),
    "w4a8": (Weights("int4", range="mse"), Activations()),
    "w4a4": (Weights("int4"), Activations("uint4")),
    "per tensor": (Weights(granularity="tensor"), Activations()),
    "affine": (Weights("int4", symmetric=False), Activations()),
    "fp8": (Weights("float8_e4m3"), Activations("float8_e4m3", symmetric=True)),
    "bf16": (Weights("bfloat16"), Activations("bfloat16")),
    "fp16": (Weights("float16"), Activations("float16")),
    "w8 in bf16": (Weights(), Activations("bfloat16")),
    "affine w4 in fp16": (Weights("int4", symmetric=False), Activations("float16")),
    "fp8 in bf16": (Weights("float8_e4m3"), Activations("bfloat16")),
    "a8 in bf16": (Weights("bfloat16"), Activations()),
    "bf16 by fp16": (Weights("bfloat16"), Activations("float16")),
    "weights only": (Weights("int4"), None),
    "bf16 weights only": (Weights("bfloat16"), None),
    "activations only": (None, Activations()),
}


def both(fn, shapes, x_shape, weights, activations, products=None):
    """The simulated and the integer result."""
    params = {name: normal(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    x = normal(9, *x_shape) + 0.5
    graph = trace(fn, params, x)
    policy = Policy((Rule("*", weights, activations),), edges=None, products=products)
    sites = assign(graph, policy)
    scales = calibrate(graph, sites, params, [(x,)])
    simulated = jax.jit(simulate(graph, sites))(params, scales, x)
    quantized = convert(graph, sites, params, scales)
    return fn(params, x), simulated, jax.jit(execute(graph, sites))(quantized, x), quantized


# Every program in eight bits, every kind of number on a product and on a convolution with padding.
PAIRS = [(program, "w8a8") for program in PROGRAMS] + [
    (program, spec) for program in ("heads", "strided") for spec in SPECS if spec != "w8a8"
]


@pytest.mark.parametrize(("program", "spec"), PAIRS)
def test_integers_equal_simulation(program, spec):
    fn, shapes, x_shape = PROGRAMS[program]
    products = SPECS[spec][1] if program == "attention" else None
    exact, simulated, integer, quantized = both(fn, shapes, x_shape, *SPECS[spec], products)
    np.testing.assert_allclose(integer, simulated, rtol=2e-5, atol=2e-5)
    assert jnp.isfinite(simulated).all()
    if spec == "w8a8":
        error = jnp.abs(simulated - exact).max() / jnp.abs(exact).max()
        assert 1e-5 < error < 0.1
    assert (quantized.params["w"] is None) == (SPECS[spec][0] is not None)


@pytest.mark.parametrize("program", ["left", "heads", "batched", "stack"])
@pytest.mark.parametrize("activations", [Activations(), Activations("bfloat16"), None])
def test_groups(program, activations):
    group = 4
    fn, shapes, x_shape = PROGRAMS[program]
    _, simulated, integer, quantized = both(
        fn, shapes, x_shape, Weights("int4", group), activations
    )
    np.testing.assert_allclose(integer, simulated, rtol=2e-5, atol=2e-5)
    weights = quantized.sites["w"]["weights"]
    assert weights.values.size == weights.scale.size * group


@pytest.mark.parametrize("program", ["batched", "depthwise"])
def test_the_product_is_of_integers(program):
    fn, shapes, x_shape = PROGRAMS[program]
    params = {name: normal(0, *shape) for name, shape in shapes.items()}
    x = normal(1, *x_shape)
    graph = trace(fn, params, x)
    sites = assign(graph, Policy())
    quantized = convert(graph, sites, params, calibrate(graph, sites, params, [(x,)]))
    text = str(jax.make_jaxpr(execute(graph, sites))(quantized, x))
    assert "preferred_element_type=int32" in text


def test_floats_of_the_same_numbers_have_a_gradient():
    w, x = normal(0, 16, 8), normal(1, 4, 16)
    graph = trace(lambda p, x: x @ p["w"], {"w": w}, x)
    sites = assign(graph, Policy())
    small = convert(graph, sites, {"w": w}, calibrate(graph, sites, {"w": w}, [(x,)]))
    floats = execute(graph, sites, integers=False)
    assert "int32" not in str(jax.make_jaxpr(floats)(small, x)).split("dot_general", 1)[1]
    np.testing.assert_allclose(
        floats(small, x), execute(graph, sites)(small, x), rtol=1e-5, atol=1e-5
    )
    direction = normal(2, 4, 8)
    gradient = jax.grad(lambda x: (floats(small, x) * direction).sum())(x)
    rounded = dequantize(small.sites["w"]["weights"])
    np.testing.assert_allclose(gradient, direction @ rounded.T, rtol=1e-5, atol=1e-5)


SLOW = ("resnet20", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "vit_ti")


@pytest.mark.parametrize(
    "name", ["mlp", "resnet8", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_every_site_of_a_model(name):
    model = models.create(name, num_classes=10)
    x = jax.random.uniform(KEY, (2, 32, 32, 3))
    variables = model.init(KEY, x, train=False)
    graph = trace(lambda v, x: model.apply(v, x, train=False), variables, x)
    sites = assign(graph, Policy((Rule("*"),), products=Activations()))
    scales = calibrate(graph, sites, variables, [(x,)])
    quantized = convert(graph, sites, variables, scales)

    def both_ways(contract, operands, given):
        assigned = sites[contract.site.name]
        rounded = list(operands)
        for role in assigned.roles:
            scale = scales[contract.site.name][role.name]
            rounded[role.operand] = fake_quantize(rounded[role.operand], *scale, role.spec.format)
        simulated = contract(*rounded)
        integer = run_site(contract, assigned, list(operands), given)
        # On the same operands: end to end, one number rounded the other way changes all after it.
        return simulated, jnp.abs(integer - simulated).max() / jnp.abs(simulated).max()

    _, errors = jax.jit(rewrite(graph, both_ways))(variables, quantized.sites, x)
    assert len(errors) == len(scales) > 0
    assert max(errors.values()) < 1e-5, errors

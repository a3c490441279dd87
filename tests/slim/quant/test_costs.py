"""Costs from the graph alone equal those of the arrays, and of the graph's own count."""

import jax
import jax.numpy as jnp
import pytest

from slim import models
from slim.graph import cost, equation, sites, trace
from slim.quant import COSTS, Activations, Policy, Rule, Weights, assign, calibrate, convert
from tests.slim.quant.searched import CASES, searched, stored_bytes

FLOAT = Policy((), edges=None, products=None)
INT8 = Policy((Rule("*"),), products=Activations())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("granularity", "symmetric"), [("channel", True), (2, False)])
def test_bytes_are_those_of_the_packed_arrays(case, granularity, symmetric):
    graph, params, _, options = searched(case, None, granularity, symmetric)
    for given, scales in options.values():
        small = convert(graph, given, params, scales)
        expected = stored_bytes(small)
        assert COSTS["bytes"](graph, given) == expected
        assert expected == {n: each["weights"].nbytes for n, each in small.sites.items()}


@pytest.mark.parametrize("format", ["int3", "int4"])
def test_values_that_do_not_fill_their_last_byte(format):
    params = {"w": jnp.ones((3, 3, 5))}
    graph = trace(lambda p, x: jnp.einsum("eb,ebo->eo", x, p["w"]), params, jnp.ones((3, 3)))
    given = assign(graph, Policy((Rule("*", Weights(format), None),), edges=None))
    small = convert(graph, given, params, calibrate(graph, given, params))
    assert COSTS["bytes"](graph, given) == stored_bytes(small)


def test_bytes_of_floats_are_the_parameters():
    def fn(p, x):
        x = x @ p["a"].astype(jnp.float32)
        x, _ = jax.lax.scan(lambda x, _: (x @ p["shared"], None), x, length=4)
        return (x @ p["fused"][:, :3]) @ x[:, :3].T @ (p["b"] @ p["c"])

    shapes = {"a": (4, 4), "shared": (4, 4), "fused": (4, 9), "b": (2, 3), "c": (3, 5)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    params["a"] = params["a"].astype(jnp.bfloat16)
    graph = trace(fn, params, jnp.zeros((2, 4)))
    found = COSTS["bytes"](graph, assign(graph, FLOAT))
    product = next(name for name in found if " at " in name)
    last = next(name for name in found if name not in {*shapes, product, "b + c"})
    assert found == {
        "a": 32,
        "shared": 64,
        "fused": 4 * 4 * 3,
        "b + c": 4 * (6 + 15),
        product: 0,
        last: 0,
    }


@pytest.mark.parametrize("name", ["mlp", "resnet8", "vit_ti"])
def test_bit_operations_of_a_whole_model(name):
    model = models.create(name, num_classes=10)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    graph = trace(lambda v, x: model.apply(v, x, train=False), variables, x)
    macs, count = cost(graph).macs, COSTS["bit_operations"]
    assert sum(count(graph, assign(graph, FLOAT)).values()) == 1024 * macs
    assert sum(count(graph, assign(graph, INT8)).values()) == 64 * macs


def test_bit_operations_of_loops_mixed_formats_and_half_precision():
    def fn(p, x):
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, p["stack"])
        return x.astype(jnp.bfloat16) @ p["half"]

    params = {"stack": jnp.zeros((3, 4, 4)), "half": jnp.zeros((4, 5), jnp.bfloat16)}
    graph = trace(fn, params, jnp.zeros((2, 4)))
    count, macs = COSTS["bit_operations"], {"stack": 3 * 2 * 4 * 4, "half": 2 * 4 * 5}
    assert count(graph, assign(graph, FLOAT)) == {
        "stack": 32 * 32 * macs["stack"],
        "half": 16 * 16 * macs["half"],
    }
    rules = (Rule("stack", Weights("int4")), Rule("half", Weights("int4"), None))
    assert count(graph, assign(graph, Policy(rules, edges=None))) == {
        "stack": 4 * 8 * macs["stack"],
        "half": 4 * 16 * macs["half"],
    }


def test_the_equation_of_every_site():
    def branches(p, x):
        x, _ = jax.lax.scan(jax.checkpoint(lambda x, w: (x @ w, None)), x, p["stack"])
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ p["yes"], lambda x: x @ p["no"].T, x)

    params = {"stack": jnp.zeros((3, 4, 4)), "yes": jnp.zeros((4, 5)), "no": jnp.zeros((5, 4))}
    graph = trace(branches, params, jnp.zeros((2, 4)))
    found = {site.name: equation(graph, site) for site in sites(graph)}
    assert set(found) == set(params)
    for site in sites(graph):
        eqn = found[site.name]
        assert eqn.primitive.name == site.primitive
        assert tuple(tuple(var.aval.shape) for var in eqn.invars) == site.shapes

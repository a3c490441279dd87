"""A quantized model comes back from its arrays and its JSON, at its bits."""

import chex
import jax
import jax.numpy as jnp
import pytest

from slim import paths
from slim.graph import trace
from slim.quant import (
    Activations,
    Policy,
    Quantization,
    Rule,
    Weights,
    assign,
    calibrate,
    convert,
    execute,
    restore,
    store,
)
from slim.quant.stored import SITES

X = jax.random.normal(jax.random.key(0), (8, 6))
PARAMS = {
    "first": {"kernel": jax.random.normal(jax.random.key(1), (6, 6)), "bias": jnp.ones(6)},
    "layers": {"kernel": jax.random.normal(jax.random.key(2), (3, 6, 6))},
    "tied": jax.random.normal(jax.random.key(3), (6, 5)),
}


def fn(params, x):
    x = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"]["kernel"])
    return x @ params["tied"] + params["tied"].sum()


INT8 = Activations("int8")


def quantized(bits="int8", data: Activations | None = INT8):
    graph = trace(fn, PARAMS, X)
    policy = Policy((Rule("tied", Weights("int8"), None), Rule("*", Weights(bits), data)), None)
    sites = assign(graph, policy)
    return graph, sites, convert(graph, sites, PARAMS, calibrate(graph, sites, PARAMS, [(X,)]))


@pytest.mark.parametrize("bits", ["int2", "int3", "int4", "int8", "float8_e4m3"])
@pytest.mark.parametrize("data", [None, INT8, Activations("uint8", symmetric=True)])
def test_what_is_stored_comes_back(bits, data):
    graph, sites, whole = quantized(bits, data)
    stored = store(whole)
    again = Quantization.from_json(Quantization.of(sites, stored).to_json())
    back = restore(again.on(graph), stored)
    chex.assert_trees_all_equal(back.sites, whole.sites)
    chex.assert_trees_all_equal(paths.flatten(back.params), paths.flatten(whole.params))
    chex.assert_trees_all_equal(
        execute(graph, again.on(graph))(back, X), execute(graph, sites)(whole, X)
    )


def test_weights_take_their_bits():
    stored = store(quantized("int4")[2])[SITES]
    assert stored["first"]["kernel"]["weights"]["values"].nbytes == 18
    assert stored["layers"]["kernel"]["weights"]["values"].nbytes == 54


def test_the_shapes_are_known_without_the_arrays():
    _, sites, whole = quantized()
    stored = store(whole)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        Quantization.from_json(Quantization.of(sites, stored).to_json()).abstract(), stored
    )


def test_a_parameter_that_is_used_elsewhere_stays():
    assert paths.flatten(store(quantized()[2])).keys() >= {"tied", "first/bias"}
    assert "first/kernel" not in paths.flatten(store(quantized()[2]))


def test_storing_is_pure():
    _, sites, whole = quantized("int3")
    chex.assert_trees_all_equal(jax.jit(store)(whole), store(whole))
    chex.assert_trees_all_equal(
        jax.jit(lambda tree: restore(sites, tree))(store(whole)).sites, whole.sites
    )


def test_another_model_is_refused():
    _, sites, whole = quantized()
    other = trace(lambda p, x: x @ p["frist"]["kernel"], {"frist": {"kernel": X.T}}, X)
    with pytest.raises(ValueError, match="no site 'first/kernel'; nearest: frist/kernel"):
        Quantization.of(sites, store(whole)).on(other)

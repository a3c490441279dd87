import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from slim.graph import trace
from slim.graph.trace import source_line

IMAGE = jax.ShapeDtypeStruct((2, 3), jnp.float32)


def dense(params, x, *, scale=1.0, negate=False):
    y = x @ params["kernel"] * scale
    return -y if negate else y


PARAMS = {"kernel": jax.ShapeDtypeStruct((3, 4), jnp.float32)}


def test_arrays_and_shapes_give_the_same_graph():
    from_shapes = trace(dense, PARAMS, IMAGE)
    from_arrays = trace(dense, {"kernel": jnp.ones((3, 4))}, jnp.ones((2, 3)))
    assert str(from_shapes.jaxpr) == str(from_arrays.jaxpr)
    assert from_shapes.outputs == jax.ShapeDtypeStruct((2, 4), jnp.float32)


def test_flags_are_fixed_and_array_keywords_are_inputs():
    graph = trace(dense, PARAMS, IMAGE, scale=jnp.ones(()), negate=True)
    assert len(graph.jaxpr.jaxpr.invars) == 3
    assert graph.jaxpr.jaxpr.eqns[-1].primitive.name == "neg"


def test_linen_nnx_and_dicts_have_paths():
    linen = nn.Dense(4)
    variables = jax.eval_shape(linen.init, jax.random.key(0), IMAGE)
    assert list(trace(linen.apply, variables, IMAGE).param_shapes) == [
        "params/bias",
        "params/kernel",
    ]

    structure, state = nnx.split(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    graph = trace(lambda state, x: nnx.merge(structure, state)(x), state, IMAGE)
    assert list(graph.param_shapes) == ["bias", "kernel"]


def test_two_parameters_of_one_path_are_refused():
    with pytest.raises(ValueError, match="two leaves at the path 'a/b'"):
        trace(lambda p: p["a/b"], {"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}})


def test_source_line_is_the_users():
    graph = trace(dense, PARAMS, IMAGE)
    assert "test_trace.py" in source_line(graph.jaxpr.jaxpr.eqns[0])

import jax
import jax.numpy as jnp

from slim import models
from slim.graph import cost, sites, trace

shape = jax.ShapeDtypeStruct


def test_every_kernel_of_a_model_is_a_site():
    model = models.create("vit_ti", num_classes=10)
    images = shape((2, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros(images.shape), train=False), jax.random.key(0)
    )
    graph = trace(lambda v, x: model.apply(v, x, train=False), params, images)
    found = sites(graph)
    kernels = {path for path in graph.param_shapes if path.endswith("/kernel")}
    assert {site.name for site in found if any(site.operands)} == kernels
    # Two products of activations in each of twelve blocks: scores and weighted values.
    assert sum(not any(site.operands) for site in found) == 24
    assert len({site.name for site in found}) == len(found)
    assert len(found) == sum(row.macs > 0 for row in cost(graph).rows)


def test_through_casts_layouts_calls_and_scans():
    params = {"stack": shape((3, 8, 8), jnp.float32), "tied": shape((5, 8), jnp.float32)}

    def fn(params, x):
        table = jax.jit(lambda w: w.astype(jnp.bfloat16))(params["tied"])

        def layer(x, w):
            return jax.checkpoint(lambda x, w: jnp.tanh(x @ w.reshape(8, 8).T))(x, w), None

        x = (x @ table).astype(jnp.float32)
        x, _ = jax.lax.scan(layer, x, params["stack"])
        return x.astype(jnp.bfloat16) @ table.T

    graph = trace(fn, params, shape((2, 5), jnp.bfloat16))
    first, second, third = sites(graph)
    assert (first.name, second.name, third.name) == ("tied", "stack", "tied#2")
    assert first.operands == third.operands == (None, "tied")
    assert second.contracted == ((1,), (0,))
    assert "test_sites.py" in second.source

    jaxpr = graph.jaxpr.jaxpr
    assert jaxpr.eqns[first.address[0]].primitive.name == "dot_general"
    assert jaxpr.eqns[second.address[0]].primitive.name == "scan"
    assert len(second.address) == 5


def test_convolutions_and_products_of_two_parameters():
    params = {"a": shape((3, 3, 4, 8), jnp.float32), "b": shape((8, 8), jnp.float32)}

    def fn(params, x):
        y = jax.lax.conv_general_dilated(
            x, params["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y @ (params["b"] @ params["b"])

    conv, power, last = sites(trace(fn, params, shape((2, 6, 6, 4), jnp.float32)))
    assert conv.contracted == ((3, 1, 2), (2, 0, 1))
    assert power.operands == ("b", "b")
    assert power.name == "b"
    assert last.name.startswith("dot_general at test_sites.py")

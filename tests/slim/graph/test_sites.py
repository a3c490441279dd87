import jax
import jax.numpy as jnp
import pytest

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


@pytest.mark.parametrize(
    ("fn", "x", "w", "outputs"),
    [
        (lambda p, x: jnp.einsum("bti,io->bto", x, p), (2, 3, 4), (4, 5), ((0, 1), (2,))),
        (lambda p, x: jnp.einsum("ebi,eio->ebo", x, p), (2, 3, 4), (2, 4, 5), ((0, 1), (0, 2))),
        (
            lambda p, x: jax.lax.ragged_dot(x, p, jnp.array([1, 2], jnp.int32)),
            (3, 4),
            (2, 4, 5),
            ((0,), (1,)),
        ),
        (
            lambda p, x: jax.lax.conv_general_dilated(
                x, p, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NCHW")
            ),
            (2, 6, 6, 4),
            (3, 3, 4, 8),
            ((0, 2, 3), (1,)),
        ),
    ],
)
def test_which_dimensions_of_the_result_are_whose(fn, x, w, outputs):
    x, w = shape(x, jnp.float32), shape(w, jnp.float32)
    (site,) = sites(trace(fn, w, x))
    # einsum may lay out its product otherwise and transpose it.
    found = [[site.result[d] for d in dims] for dims in site.outputs]
    result = jax.eval_shape(fn, w, x).shape
    expected = [[result[d] for d in dims] for dims in outputs]
    order = (0, 1) if site.operands[1] is not None else (1, 0)
    assert [found[i] for i in order] == expected

import chex
import jax
import jax.numpy as jnp

from slim.graph import site_parameters, trace

STACK = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
W = jax.random.normal(jax.random.key(1), (4, 4))


def fn(params, x):
    def inner(x, w):
        return jax.checkpoint(lambda x: x @ w.T @ params["w"].astype(jnp.float32))(x), None

    x, _ = jax.lax.scan(lambda x, stack: jax.lax.scan(inner, x, stack), x, params["stack"])
    x = jax.lax.cond(x.sum() > 0, lambda: x @ params["a"], lambda: x @ params["b"])
    return x @ jax.jit(lambda w: w.reshape(8, 2)[:4])(params["w"]), params["a"] @ params["b"]


def test_operands_as_the_sites_see_them():
    params = {"stack": STACK, "w": W, "a": 2 * W, "b": 3 * W}
    graph = trace(fn, params, jnp.ones((5, 4)))
    every = [leaf.T for leaf in STACK.reshape(6, 4, 4)]
    assert {site: operand.shape for site, operand in site_parameters(graph, params).items()} == {
        "stack": (2, 3, 4, 4),
        "w": (2, 3, 4, 4),
        "a": (4, 4),
        "b": (4, 4),
        "w#2": (4, 2),
    }
    found = jax.jit(lambda params: site_parameters(graph, params))(params)
    expected = {
        "stack": jnp.stack(every).reshape(STACK.shape),
        "w": jnp.broadcast_to(W, STACK.shape),
        "a": 2 * W,
        "b": 3 * W,
        "w#2": W.reshape(8, 2)[:4],
    }
    chex.assert_trees_all_equal(found, expected)

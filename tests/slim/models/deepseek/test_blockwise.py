"""Attention by blocks beside all of it at once, in both passes."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models.deepseek import DeepSeek, deepseek_config
from slim.models.deepseek.blockwise import attend

SCALE = 0.3


def at_once(query, key, value):
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * SCALE
    scores = jnp.where(jnp.tri(query.shape[1], dtype=bool), scores, -jnp.inf)
    return jnp.einsum("bhqk,bkhv->bqhv", jax.nn.softmax(scores), value)


@pytest.fixture(scope="module")
def arrays():
    """Query, key, value and the result's gradient; some scores near 30."""
    rng = np.random.default_rng(0)
    sizes = (2, 12, 4, 6), (2, 12, 4, 6), (2, 12, 4, 5), (2, 12, 4, 5)
    query, *others = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes)
    return query.at[0].multiply(10), *others


def both_passes(fn, query, key, value, gradient):
    result, pull = jax.vjp(fn, query, key, value)
    return result, pull(gradient)


@pytest.mark.parametrize(("block", "heads"), [(1, 0), (4, 2), (6, 1), (12, 4)])
def test_blocks_are_the_whole(arrays, block, heads):
    some = partial(attend, scale=SCALE, block=block, heads=heads)
    by_blocks = jax.jit(partial(both_passes, some))
    expected = jax.jit(partial(both_passes, at_once))(*arrays)
    chex.assert_trees_all_close(by_blocks(*arrays), expected, atol=1e-5, rtol=1e-5)


def test_in_bfloat16_sums_are_float32(arrays):
    half = [x.astype(jnp.bfloat16) for x in arrays[:3]]
    found = attend(*half, SCALE, 4)
    assert found.dtype == jnp.bfloat16
    expected = at_once(*(x.astype(jnp.float32) for x in half))
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.03)


def test_no_array_is_as_large_as_all_scores():
    x = jax.ShapeDtypeStruct((1, 64, 2, 4), jnp.float32)
    traced = jax.make_jaxpr(jax.grad(lambda q: attend(q, q, q, SCALE, 8).sum()))(x)
    assert "64,64" not in str(traced)
    assert "8,8]" in str(traced)


def test_a_decoder_by_blocks_is_the_decoder():
    config = replace(deepseek_config("tiny").dense(), depth=1, dense_layers=1, predict_ahead=0)
    ids = np.random.default_rng(0).integers(0, 256, (2, 8)).astype(np.int32)
    model = DeepSeek(config, remat=True)
    variables = model.init(jax.random.key(0), ids, train=False)

    def loss(params, block):
        logits = model.clone(attention_block=block).apply({"params": params}, ids, train=True)
        return jnp.square(logits).mean()

    found, expected = (
        jax.jit(jax.grad(loss), static_argnums=1)(variables["params"], b) for b in (4, 0)
    )
    chex.assert_trees_all_close(found, expected, atol=1e-7, rtol=1e-4)


def test_blocks_and_heads_that_do_not_divide_are_refused(arrays):
    with pytest.raises(
        ValueError, match="attention_block is 5; allowed: a divisor of the length, 12"
    ):
        attend(*arrays[:3], SCALE, 5)
    with pytest.raises(ValueError, match="heads is 3; allowed: a divisor of the heads, 4"):
        attend(*arrays[:3], SCALE, 4, 3)

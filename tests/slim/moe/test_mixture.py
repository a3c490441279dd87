"""Every way to compute the layer equals the reference, token by token, in both passes."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.moe.experts import Experts
from slim.moe.grouped import BACKENDS
from slim.moe.mixture import buckets, dropless, reference

TOKENS, WIDTH, HIDDEN, EXPERTS = 12, 3, 4, 5
MIXES = {name: dropless(name) for name in BACKENDS} | {"buckets": buckets(EXPERTS)}


def distinct(tokens, k, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(EXPERTS)[:k] for _ in range(tokens)])


ROUTINGS = {
    "distinct": distinct(TOKENS, 2),
    "all to one pair": np.tile([3, 1], (TOKENS, 1)),
    "twice the same": np.full((TOKENS, 2), EXPERTS - 1),
    "in turn": np.arange(2 * TOKENS).reshape(TOKENS, 2) % EXPERTS,
    "one each": distinct(TOKENS, 1),
    "all to the last": np.full((TOKENS, 1), EXPERTS - 1),
    "all experts": distinct(TOKENS, EXPERTS),
}


def inputs(k, tokens=TOKENS, width=WIDTH, hidden=HIDDEN, experts=EXPERTS, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    wide, back = (experts, width, hidden), (experts, hidden, width)
    x, *weights = (
        jnp.asarray(rng.normal(size=shape), dtype) for shape in ((tokens, width), wide, wide, back)
    )
    return Experts(*weights), x, jnp.asarray(rng.uniform(-1, 1, size=(tokens, k)), jnp.float32)


def both_passes(mix):
    """`(experts, (weights, x, gates)) -> ((y, dropped), gradients)`, compiled."""

    def loss(trained, experts):
        weights, x, gates = trained
        y, dropped = mix(weights, x, experts, gates)
        return jnp.sin(y.astype(jnp.float32)).sum(), (y, dropped)

    @jax.jit
    def fn(experts, trained):
        gradients, result = jax.grad(loss, has_aux=True)(trained, experts)
        return result, gradients

    return fn


expected_passes = both_passes(reference())


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    """So that few rows are several blocks, whole and partial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("slim.moe.grouped.blocks"), "ROWS", (8, 4))
        yield


@pytest.fixture(scope="module", params=MIXES)
def passes(request):
    return both_passes(MIXES[request.param])


def test_equals_the_reference_in_both_passes(passes):
    for experts in ROUTINGS.values():
        experts = jnp.asarray(experts, jnp.int32)
        given = inputs(experts.shape[1])
        chex.assert_trees_all_close(
            passes(experts, given), expected_passes(experts, given), rtol=1e-5, atol=1e-5
        )
    assert passes._cache_size() == len({routing.shape for routing in ROUTINGS.values()})


def test_no_scatter_in_either_pass(passes):
    experts = jnp.asarray(ROUTINGS["distinct"], jnp.int32)
    assert "scatter" not in str(passes.trace(experts, inputs(2)).jaxpr)
    text = passes.lower(experts, inputs(2)).compile().as_text()
    assert "gather" in text
    assert "scatter" not in text


def test_half_precision_sums_with_the_gates_in_theirs(passes):
    experts = jnp.asarray(ROUTINGS["distinct"], jnp.int32)
    given = inputs(2, dtype=jnp.bfloat16)
    (y, _), gradients = passes(experts, given)
    assert y.dtype == jnp.bfloat16
    chex.assert_trees_all_equal_dtypes(gradients, given)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), given)
    (expected, _), expected_gradients = expected_passes(experts, exact)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (y, gradients)),
        (expected, expected_gradients),
        rtol=0.05,
        atol=0.15,
    )


shapes = st.tuples(*(st.integers(1, most) for most in (9, 3, 3, 4)))


@given(shapes, st.data())
@settings(max_examples=4)
def test_any_shape(shape, data):
    tokens, width, hidden, experts = shape
    k = data.draw(st.integers(1, experts))
    ids = data.draw(st.lists(st.integers(0, experts - 1), min_size=tokens * k, max_size=tokens * k))
    routed = jnp.asarray(np.reshape(ids, (tokens, k)), jnp.int32)
    given = inputs(k, tokens, width, hidden, experts)
    chex.assert_trees_all_close(
        both_passes(dropless("blocks"))(routed, given),
        both_passes(reference())(routed, given),
        rtol=1e-5,
        atol=1e-5,
    )


def test_what_buckets_drop_is_counted_and_is_what_comes_last():
    experts = jnp.asarray(ROUTINGS["all to one pair"], jnp.int32)
    weights, x, gates = inputs(2)
    (y, dropped), gradients = both_passes(buckets(1.0))(experts, (weights, x, gates))
    capacity = -(-TOKENS * 2 // EXPERTS)
    assert dropped == 2 * (TOKENS - capacity)
    kept = jnp.where(np.arange(TOKENS)[:, None] < capacity, gates, 0)
    (expected, _), expected_gradients = expected_passes(experts, (weights, x, kept))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    chex.assert_trees_all_close(gradients[:2], expected_gradients[:2], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(gradients[2][capacity:], 0)


def test_what_does_not_belong_together_is_refused():
    weights, x, gates = inputs(2)
    experts = jnp.asarray(ROUTINGS["distinct"], jnp.int32)
    for mix in (reference(), *MIXES.values()):
        with pytest.raises(ValueError, match=r"gates has shape \(12, 1\); allowed: \(12, 2\)"):
            mix(weights, x, experts, gates[:, :1])
        with pytest.raises(ValueError, match=r"x has shape \(12, 2\).*\(5, 3, 4\)"):
            mix(weights, x[:, :2], experts, gates)
        with pytest.raises(ValueError, match=r"down has shape \(5, 3, 4\)"):
            mix(weights._replace(down=weights.up), x, experts, gates)
        with pytest.raises(ValueError, match=r"experts has shape \(11, 2\)"):
            mix(weights, x, experts[1:], gates)
    with pytest.raises(ValueError, match="capacity_factor is 0; allowed: above 0"):
        buckets(0)
    with pytest.raises(ValueError, match="backend: unknown name"):
        dropless("cpu")

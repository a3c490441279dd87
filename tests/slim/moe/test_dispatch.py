"""Sorting tokens by expert: no pair is lost or doubled, and gradients are gathers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.moe import dispatch

COUNT, TOKENS, K, WIDTH = 4, 7, 3, 2
sort = jax.jit(dispatch.sort, static_argnums=1)
fill = jax.jit(
    lambda experts, capacity: dispatch.buckets(sort(experts, COUNT), capacity), static_argnums=1
)
routings = st.lists(st.integers(0, COUNT - 1), min_size=TOKENS * K, max_size=TOKENS * K).map(
    lambda ids: np.reshape(ids, (TOKENS, K)).astype(np.int32)
)


@given(routings)
@settings(max_examples=50)
def test_every_pair_has_one_row_of_its_expert_in_the_order_of_tokens(experts):
    order, inverse, sizes = sort(experts, COUNT)
    pairs = experts.ravel()
    np.testing.assert_array_equal(order, np.argsort(pairs, kind="stable"))
    np.testing.assert_array_equal(np.asarray(order)[inverse], np.arange(pairs.size))
    np.testing.assert_array_equal(sizes, np.bincount(pairs, minlength=COUNT))
    place, expert = dispatch.place_of_rows(sizes, pairs.size)
    np.testing.assert_array_equal(expert, np.sort(pairs))
    np.testing.assert_array_equal(place, np.concatenate([np.arange(n) for n in sizes]))


@given(routings, st.sampled_from([1, 4, TOKENS * K]))
@settings(max_examples=50)
def test_buckets_hold_the_first_pairs_of_each_expert_once(experts, capacity):
    order, inverse, sizes = map(np.asarray, fill(experts, capacity))
    pairs, slots = experts.size, COUNT * capacity
    for expert in range(COUNT):
        own = np.flatnonzero(experts.ravel() == expert)[:capacity]
        bucket = order[expert * capacity : (expert + 1) * capacity]
        np.testing.assert_array_equal(
            bucket, np.pad(own, (0, capacity - own.size), constant_values=pairs)
        )
        assert sizes[expert] == own.size
    kept = inverse < slots
    assert kept.sum() == sizes.sum()
    np.testing.assert_array_equal(order[inverse[kept]], np.flatnonzero(kept))
    np.testing.assert_array_equal(inverse[~kept], slots)


def values(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def uneven():
    """Experts for each token: one has most, one has none."""
    return np.random.default_rng(0).choice([0, 0, 0, 1, 3], (TOKENS, K)).astype(np.int32)


@pytest.mark.parametrize("capacity", [None, 4])
def test_permute_reads_tokens_and_its_gradient_is_the_gathers(uneven, capacity):
    order, inverse, _ = sort(uneven, COUNT) if capacity is None else fill(uneven, capacity)
    x, dy = values(TOKENS, WIDTH), values(order.size, WIDTH)

    def plain(x):
        padded = jnp.concatenate([jnp.repeat(x, K, axis=0), jnp.zeros((1, WIDTH))])
        return padded[order]

    y, pull = jax.vjp(lambda x: dispatch.permute(x, order, inverse), x)
    expected, expected_pull = jax.vjp(plain, x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(pull(dy)[0], expected_pull(dy)[0], rtol=1e-6)
    assert "scatter" not in str(jax.make_jaxpr(pull)(dy))


def test_permute_there_and_back_is_the_identity(uneven):
    order, inverse, _ = sort(uneven, COUNT)
    rows = values(TOKENS * K, WIDTH)
    back = dispatch.permute(dispatch.permute(rows, order, inverse), inverse, order)
    np.testing.assert_array_equal(back, rows)

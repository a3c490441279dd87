import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.moe.compress import (
    align_hidden,
    group_experts,
    logit_similarity,
    merge_experts,
    permute_hidden,
    remapped,
)
from slim.moe.mixture import dropless, reference
from slim.moe.routing import sigmoid
from tests.slim.moe.compress import mixtures

ROUTER = sigmoid(3)
LOAD = jnp.array([9, 1, 8, 2, 0, 0, 7, 3])


def doubled():
    """Eight experts that are four functions: 4 to 7 are 3 to 0 with their units shuffled."""
    mixture, x = mixtures.make()
    half = jax.tree.map(lambda leaf: leaf[:4], mixture.experts)
    order = np.stack([np.random.default_rng(e).permutation(mixtures.HIDDEN) for e in range(4)])
    shuffled = permute_hidden(half, jnp.asarray(order))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b[::-1]]), half, shuffled)
    return mixture._replace(experts=both), x, jnp.array([0, 1, 2, 3, 3, 2, 1, 0], jnp.int32)


@pytest.mark.parametrize("mix", [reference(), dropless("blocks")], ids=["reference", "dropless"])
def test_merging_equal_experts_changes_nothing(mix):
    mixture, x, same = doubled()
    merged = merge_experts(mixture.experts, same, LOAD)
    chex.assert_tree_shape_prefix(merged, (4,))
    found = mixtures.output(ROUTER, mixture._replace(experts=merged), x, remapped(mix, same))
    np.testing.assert_allclose(found, mixtures.output(ROUTER, mixture, x), atol=1e-6)


def test_alignment_undoes_the_shuffling():
    mixture, _, same = doubled()
    aligned = align_hidden(mixture.experts, np.asarray(same))
    halves = [jax.tree.map(lambda leaf, s=s: leaf[s], aligned) for s in np.s_[:4, 4:]]
    chex.assert_trees_all_equal(halves[0], jax.tree.map(lambda leaf: leaf[::-1], halves[1]))
    assert (mixture.experts.gate[4:] != halves[1].gate).any()


def test_averages_are_weighted_by_use():
    experts = mixtures.make()[0].experts
    assignment = jnp.array([0, 0, 1, 1, 2, 2, 3, 3])
    merged = merge_experts(experts, assignment, LOAD)
    aligned = align_hidden(experts, np.array([0, 0, 2, 2, 4, 4, 6, 6]))
    weights = np.array([0.9, 0.1, 0.8, 0.2, 0.5, 0.5, 0.7, 0.3])  # of no use at all, alike
    for found, leaf in zip(merged, aligned, strict=True):
        expected = (np.asarray(leaf) * weights[:, None, None]).reshape(4, 2, *leaf.shape[1:])
        np.testing.assert_allclose(found, expected.sum(1), atol=1e-6)


def test_the_similar_join_the_most_used():
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(100, 4)) @ np.eye(4)[:, [0, 0, 1, 1, 2, 3, 2, 3]]
    logits = jnp.asarray(wanted + 0.1 * rng.normal(size=wanted.shape), jnp.float32)
    similarity = logit_similarity(logits)
    np.testing.assert_allclose(jnp.diag(similarity), 1, rtol=1e-5)
    np.testing.assert_allclose(
        similarity[0, 2],
        np.dot(*(v / np.linalg.norm(v) for v in logits.T[jnp.array([0, 2])])),
        atol=1e-5,
    )
    load = jnp.array([9, 1, 2, 8, 7, 6, 1, 1])  # the most used: 0, 3, 4, 5
    group = jax.jit(group_experts, static_argnums=(2, 3))
    np.testing.assert_array_equal(group(similarity, load, 4, 1), [0, 0, 1, 1, 2, 3, 2, 3])
    # Experts 2 and 4 are of other groups than their likes.
    found = group(similarity[jnp.array([0, 4, 2, 3, 1, 5, 6, 7])][:, jnp.arange(8)], load, 4, 2)
    assert set(np.asarray(found[:4]).tolist()) == {0, 1}
    assert set(np.asarray(found[4:]).tolist()) == {2, 3}


def test_as_many_as_there_are_stay_themselves():
    mixture, _ = mixtures.make()
    assignment = group_experts(jnp.ones((8, 8)), LOAD, 8)
    np.testing.assert_array_equal(assignment, range(8))
    chex.assert_trees_all_close(
        merge_experts(mixture.experts, assignment, LOAD), mixture.experts, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ([0, 1], r"assignment has shape \(2,\) and load \(8,\); allowed: one entry for each"),
        ([0, 0, 0, 2, 2, 2, 3, 3], r"\[0, 0, 0, 2, 2, 2, 3, 3\]; it must have each of 0 to 3"),
    ],
)
def test_assignments_that_cannot_be(assignment, message):
    with pytest.raises(ValueError, match=message):
        merge_experts(mixtures.make()[0].experts, jnp.array(assignment), LOAD)

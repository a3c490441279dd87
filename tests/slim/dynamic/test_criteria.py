"""What every criterion promises, and what each is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.dynamic import CRITERIA, fit_thresholds, simulate

LOGITS = 2 * jax.random.normal(jax.random.key(1), (4, 9, 3))
KEY = jax.random.key(0)
SETTINGS = {
    "confidence": jnp.float32(0.8),
    "entropy": jnp.array([0.9, 0.5, 0.3, 0.1]),
    "margin": jnp.float32(0.5),
    "patience": jnp.int32(1),
    "random": (KEY, jnp.float32(0.4)),
    "fixed": jnp.arange(9) % 4,
}


@pytest.mark.parametrize("name", CRITERIA)
def test_contract(name):
    """Pure, compiled once whatever the setting, and an example's affair alone."""
    criterion, setting = CRITERIA[name], SETTINGS[name]
    run = jax.jit(lambda *args: simulate(criterion, *args))
    found = run(setting, LOGITS, jnp.arange(9))
    other = jax.tree.map(lambda x: x if x is KEY else x + jnp.ones((), x.dtype), setting)
    run(other, LOGITS, jnp.arange(9))
    assert run._cache_size() == 1
    assert 0 < found.exit.mean() < 3
    chex.assert_trees_all_equal(found.logits, LOGITS[found.exit, jnp.arange(9)])
    chex.assert_trees_all_equal(found, simulate(criterion, setting, LOGITS))
    # The same examples in another order, others among them.
    order = jnp.array([5, 2, 8])
    some = simulate(criterion, setting, LOGITS[:, order], order)
    chex.assert_trees_all_equal(some, jax.tree.map(lambda x: x[order], found))
    shapes = jax.eval_shape(criterion.init, setting, jnp.arange(9))
    state, leave = jax.eval_shape(criterion.step, setting, shapes, LOGITS[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(state, shapes)
    assert (leave.shape, leave.dtype) == ((9,), jnp.bool_)
    assert all(leaf.shape[0] == 9 for leaf in jax.tree.leaves(shapes))
    if criterion.score is not None:
        assert criterion.score(LOGITS[0]).shape == (9,)
        everyone = simulate(criterion, -jnp.inf, LOGITS).exit
        nobody = simulate(criterion, jnp.inf, LOGITS).exit
        assert (everyone.tolist(), nobody.tolist()) == ([0] * 9, [3] * 9)


def test_scores_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [1 / 3] * 3, [1.0, 1e-30, 1e-30]]).astype(np.float32)
    expected = {
        "confidence": [0.5, 1 / 3, 1],
        "margin": [0.25, 0, 1],
        "entropy": [1 - 1.5 * np.log(2) / np.log(3), 0, 1],
    }
    for name, scores in expected.items():
        np.testing.assert_allclose(CRITERIA[name].score(logits), scores, atol=1e-6)


def test_patience_by_hand():
    """Predictions at five exits; the first repeats nothing."""
    predictions = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [2, 2, 1, 1, 1], [0, 1, 2, 0, 1]])
    logits = jax.nn.one_hot(predictions.T, 3)
    exits = {t: simulate(CRITERIA["patience"], t, logits).exit.tolist() for t in range(4)}
    assert exits == {0: [0] * 4, 1: [1, 2, 1, 4], 2: [2, 4, 4, 4], 3: [3, 4, 4, 4]}


def test_random_leaves_as_often_as_it_says():
    exits = simulate(CRITERIA["random"], (KEY, 0.25), jnp.zeros((3, 4000, 2))).exit
    shares = [(exits == i).mean() for i in range(3)]
    np.testing.assert_allclose(shares, [0.25, 0.75 * 0.25, 0.75**2], atol=0.02)


def brute_force(scores, correct, tolerance):
    """Exit by exit the lowest threshold among the scores that stays within its share."""
    exits, count = scores.shape
    left, here, found = int(tolerance * count + 1e-3), np.ones(count, bool), []
    for i in range(exits):
        best, cost = np.inf, 0
        for threshold in np.unique(scores[i][here]):
            leaves = here & (scores[i] >= threshold)
            lost = (correct[-1] & leaves).sum() - (correct[i] & leaves).sum()
            if lost <= left // (exits - i):
                best, cost = threshold, lost
                break
        left, here = left - cost, here & (scores[i] < best)
        found.append(best)
    return np.array([*found, -np.inf], np.float32)


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.05, 0.3, 1.0])
def test_learned_thresholds(tolerance):
    """The exact ones by trying all, with ties; and no more is lost than is tolerated."""
    rng = np.random.default_rng(int(100 * tolerance))
    # Later exits are better; few distinct scores.
    labels = rng.integers(0, 3, 200)
    signal = np.linspace(0.3, 2, 4)[:, None, None] * np.eye(3)[labels]
    logits = np.round(rng.normal(size=(4, 200, 3)) + signal, 1).astype(np.float32)
    scores = np.asarray(CRITERIA["margin"].score(logits[:-1]))
    correct = logits.argmax(-1) == labels
    found = jax.jit(fit_thresholds, static_argnums=2)(scores, correct, tolerance)
    np.testing.assert_array_equal(found, brute_force(scores, correct, tolerance))
    exited = simulate(CRITERIA["margin"], found, logits)
    accuracy = (exited.logits.argmax(-1) == labels).mean()
    assert accuracy >= correct[-1].mean() - tolerance - 1e-6
    assert tolerance < 0.05 or exited.exit.mean() < 2.5


def test_refusals():
    scores, correct = np.zeros((2, 5)), np.zeros((2, 5), bool)
    with pytest.raises(ValueError, match=r"scores \(2, 5\) and correct \(2, 5\)"):
        fit_thresholds(scores, correct, 0.1)
    with pytest.raises(ValueError, match=r"tolerance = 2 must be in \[0, 1\]"):
        fit_thresholds(scores[:1], correct, 2)

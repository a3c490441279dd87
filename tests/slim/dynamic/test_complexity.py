import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfTransformer

from slim.dynamic.complexity import (
    POINTS,
    fit_complexity,
    fit_weights,
    measure_complexity,
    score_complexity,
)
from slim.dynamic.measures import MEASURES
from slim.dynamic.vocabulary import read_vocabulary

SIZE = 40
WORDS = read_vocabulary(
    {f"{i}": i for i in range(SIZE)}, special=(0,), clauses=("3",), contrasts=("7",)
)


@pytest.fixture(scope="module")
def ids():
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.5, size=(POINTS, 12)), SIZE - 1)
    return np.where(np.arange(12) < rng.integers(1, 13, size=(POINTS, 1)), ids, 0)


@pytest.fixture(scope="module")
def state(ids):
    return fit_complexity(ids, WORDS)


def test_inverse_document_frequencies_are_scikit_learns(ids, state):
    counts = np.stack([np.bincount(row, minlength=SIZE) for row in ids])
    theirs = TfidfTransformer(smooth_idf=True).fit(counts).idf_ - 1
    np.testing.assert_allclose(state.idf, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_quantiles_are_ranks(ids, state, name):
    ranks = measure_complexity(state, jnp.asarray(ids, jnp.int32))[name]
    values = MEASURES[name].value(jnp.asarray(ids, jnp.int32), state.vocabulary, state.idf)
    np.testing.assert_allclose(ranks, (rankdata(values) - 0.5) / POINTS, atol=1e-6)


def test_score_ranks_the_weighted_sum(ids, state):
    result = score_complexity(state, jnp.asarray(ids, jnp.int32))
    ranks = measure_complexity(state, jnp.asarray(ids, jnp.int32))
    total = np.round(sum(np.asarray(each) for each in ranks.values()) / len(ranks), 4)
    # Ranks of sums that differ in the fifth digit only may be the other way round.
    np.testing.assert_allclose(result, (rankdata(total) - 0.5) / POINTS, atol=3e-3)
    assert abs(float(result.mean()) - 0.5) < 1e-6


def test_texts_harder_by_every_measure_score_higher(state):
    easy, hard = [1, 1, 1, 0, 0, 0], [3, 7, 30, 31, 32, 33]
    low, high = score_complexity(state, jnp.array([easy, hard], jnp.int32))
    assert low < 0.2
    assert high > 0.8


def test_pure_under_jit_without_a_second_compilation(ids, state):
    jitted = jax.jit(lambda *given: score_complexity(*given))
    some = jnp.asarray(ids[:8], jnp.int32)
    np.testing.assert_allclose(jitted(state, some), score_complexity(state, some), atol=2e-3)
    jitted(jax.tree.map(lambda leaf: leaf / 2, state), some)
    assert jitted._cache_size() == 1
    assert jax.eval_shape(score_complexity, state, some).shape == (8,)


def test_the_sign_of_a_weight_turns_the_order_round(ids):
    some = jnp.asarray(ids, jnp.int32)
    up, down = (
        score_complexity(fit_complexity(ids, WORDS, {"length": w}), some) for w in (1.0, -0.3)
    )
    np.testing.assert_allclose(up, 1 - down, atol=1e-6)


def test_fitted_weights_are_at_the_optimum(ids, state):
    ranks = measure_complexity(state, jnp.asarray(ids, jnp.int32))
    rng = np.random.default_rng(1)
    chance = 1 / (1 + np.exp(-4 * (np.asarray(ranks["length"]) - 0.5)))
    wrong = rng.random(POINTS) < chance
    penalty = 1e-2
    weights = fit_weights(ranks, wrong, penalty=penalty)
    assert max(weights, key=weights.get) == "length"
    # The gradient of the convex objective is 0, for the best intercept.
    columns = np.stack([np.asarray(ranks[name], np.float64) for name in weights], axis=1)
    values = np.array(list(weights.values()))
    low, high = -50.0, 50.0
    for _ in range(100):
        intercept = (low + high) / 2
        probability = 1 / (1 + np.exp(-columns @ values - intercept))
        low, high = (low, intercept) if probability.mean() > wrong.mean() else (intercept, high)
    slope = columns.T @ (probability - wrong) / POINTS + penalty * values
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        (np.ones((2, 3), int), {"lenght": 1.0}, "unknown name 'lenght'; did you mean 'length'"),
        (np.ones((2, 3), int), {"length": np.nan}, r"weights\['length'\] is nan"),
        (np.ones((2, 3), int), {"length": 0.0}, "weigh at least one of rarity"),
        (np.ones(3, int), None, r"shape \(3,\), must be \(texts, length\)"),
        (np.full((2, 3), SIZE), None, f"ids has {SIZE}, allowed are 0 to {SIZE - 1}"),
        (np.full((2, 3), -1), None, "ids has -1"),
    ],
)
def test_bad_input(ids, weights, message):
    with pytest.raises(ValueError, match=message):
        fit_complexity(ids, WORDS, weights)


def test_weights_need_both_kinds_of_text():
    with pytest.raises(ValueError, match=r"wrong is \[0\] for all 3 texts"):
        fit_weights({"length": np.ones(3)}, np.zeros(3))
    with pytest.raises(ValueError, match="penalty is 0"):
        fit_weights({"length": np.ones(3)}, np.array([0, 1, 1]), penalty=0)

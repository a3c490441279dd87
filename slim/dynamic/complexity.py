"""A text's difficulty, a number in [0, 1], before anything of it has been computed.

    words = read_vocabulary(tokenizer.get_vocab())
    state = fit_complexity(train_ids, words)
    complexity = score_complexity(state, ids)     (batch,), uniform on the training texts

Measures of the token ids are put on one scale by their quantiles on the training texts and added
up with weights, which may be given, or fitted to a shallow model's errors:

    weights = fit_weights(measure_complexity(state, held_out_ids), wrong)
    state = fit_complexity(train_ids, words, weights)
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.dynamic.measures import MEASURES, first_occurrences
from slim.dynamic.vocabulary import Vocabulary
from slim.paths import unknown_name

POINTS = 1000
"""Of a distribution so many quantiles are kept: ranks are exact to a thousandth."""


class Complexity(NamedTuple):
    """What is known from the training texts; a pytree of float32.

    Attributes:
        vocabulary: what the ids mean.
        idf: log((1 + n) / (1 + df)) of each token, df of the n texts having it; `(vocabulary,)`.
        weights: of each measure, by name; `()`. Their absolute values add up to 1.
        distributions: the quantiles of each measure, by name, ascending; `(points,)`.
        total: those of the weighted sum; `(points,)`.
    """

    vocabulary: Vocabulary
    idf: jax.Array
    weights: dict[str, jax.Array]
    distributions: dict[str, jax.Array]
    total: jax.Array


def fit_complexity(
    ids: jax.Array | np.ndarray,
    vocabulary: Vocabulary,
    weights: Mapping[str, float] | None = None,
) -> Complexity:
    """Read the training texts.

    Args:
        ids: `(texts, length)`, integers, padded with a special id.
        vocabulary: what the ids mean.
        weights: of the measures that count, by their names in `MEASURES`; of all alike if None.

    Raises:
        ValueError: ids of another shape, outside the vocabulary, or none; no weight, one that is
            not finite or of an unknown measure.

    >>> from slim.dynamic.vocabulary import read_vocabulary
    >>> words = read_vocabulary({"[PAD]": 0, "good": 1, "dull": 2, ",": 3, "not": 4}, special=(0,))
    >>> state = fit_complexity(np.array([[1, 0, 0], [2, 0, 0], [4, 1, 0], [4, 3, 2]]), words)
    >>> easy, hard = score_complexity(state, jnp.array([[1, 0, 0], [4, 3, 2]]))
    >>> print(f"{easy:.3f} {hard:.3f}")
    0.250 0.875
    """
    weights = dict.fromkeys(MEASURES, 1.0) if weights is None else dict(weights)
    for name, weight in weights.items():
        if name not in MEASURES:
            raise ValueError(unknown_name("weights", name, MEASURES))
        if not np.isfinite(weight):
            raise ValueError(f"weights[{name!r}] is {weight}: give a finite number")
    if not any(weights.values()):
        raise ValueError(f"weights is {weights}: weigh at least one of {', '.join(MEASURES)}")
    size, shape = len(vocabulary.counted), np.shape(ids)
    if len(shape) != 2 or not min(shape):
        raise ValueError(f"ids has shape {shape}, must be (texts, length), with at least one each")
    if (low := int(ids.min())) < 0 or (high := int(ids.max())) >= size:
        wrong = low if low < 0 else high
        raise ValueError(
            f"ids has {wrong}, allowed are 0 to {size - 1}: use the tokenizer that the vocabulary "
            "is of"
        )
    ids = jnp.asarray(ids, jnp.int32)
    ordered, first = first_occurrences(ids)
    having = jnp.zeros(size).at[ordered].add(first.astype(jnp.float32))
    idf = jnp.log((1 + len(ids)) / (1 + having))
    measured = {name: MEASURES[name].value(ids, vocabulary, idf) for name in weights}
    distributions = {name: _distribution(values) for name, values in measured.items()}
    norm = sum(map(abs, weights.values()))
    scales = {name: jnp.float32(weight / norm) for name, weight in weights.items()}
    ranks = {name: _rank(distributions[name], values) for name, values in measured.items()}
    total = _distribution(_total(scales, ranks))
    return Complexity(vocabulary, idf, scales, distributions, total)


def measure_complexity(state: Complexity, ids: jax.Array) -> dict[str, jax.Array]:
    """Each measure's place in its distribution on the training texts.

        F(x) = (P(X < x) + P(X <= x)) / 2

    Args:
        state: from `fit_complexity`.
        ids: int32 `(batch, length)`, of any length.

    Returns:
        By measure, float32 `(batch,)` in [0, 1].
    """
    return {
        name: _rank(distribution, MEASURES[name].value(ids, state.vocabulary, state.idf))
        for name, distribution in state.distributions.items()
    }


def score_complexity(state: Complexity, ids: jax.Array) -> jax.Array:
    """The complexity F(sum_m w_m F_m(ids)); F and F_m as in `measure_complexity`.

    Args:
        state: from `fit_complexity`.
        ids: int32 `(batch, length)`, of any length.

    Returns:
        Float32 `(batch,)` in [0, 1]; its quantiles on the training texts are those of the uniform
        distribution, as far as no texts are alike to the measures.
    """
    return _rank(state.total, _total(state.weights, measure_complexity(state, ids)))


def fit_weights(
    ranks: Mapping[str, jax.Array | np.ndarray],
    wrong: jax.Array | np.ndarray,
    *,
    penalty: float = 1e-3,
) -> dict[str, float]:
    """The weights with which the measures best tell where a shallow model errs.

        min over w, b of mean log loss of P(wrong) = sigmoid(b + sum_m w_m F_m) + penalty/2 |w|^2

    Args:
        ranks: of held-out texts; see `measure_complexity`.
        wrong: `(texts,)`, 1 where the shallow model is wrong, or where it differs from the deep.
        penalty: keeps the weights finite where the measures tell exactly; above 0.

    Raises:
        ValueError: not one wrong or not one right, a penalty not above 0.
    """
    from sklearn.linear_model import LogisticRegression  # here: it takes a second to import

    wrong = np.asarray(wrong).astype(int)
    if len(np.unique(wrong)) != 2:
        raise ValueError(
            f"wrong is {wrong[:1]} for all {len(wrong)} texts: weights can be fitted only where "
            "some are wrong and some right; take more texts or a shallower model"
        )
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}, must be above 0")
    columns = np.stack([np.asarray(ranks[name], np.float64) for name in ranks], axis=1)
    model = LogisticRegression(
        C=1 / (penalty * len(wrong)), solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    fitted = model.fit(columns, wrong).coef_[0]
    return {name: float(weight) for name, weight in zip(ranks, fitted, strict=True)}


def _total(weights: Mapping[str, jax.Array], ranks: Mapping[str, jax.Array]) -> jax.Array:
    total = jnp.stack([weights[name] * ranks[name] for name in sorted(ranks)]).sum(axis=0)
    # Equal texts stay equal however this is compiled: their ranks would be far apart.
    return jnp.round(total * 2**16) / 2**16


def _distribution(values: jax.Array) -> jax.Array:
    """The values at the middles of `POINTS` equal shares."""
    ordered = jnp.sort(values)
    middles = (np.arange(POINTS) + 0.5) / POINTS * len(values)
    return ordered[middles.astype(int)]


def _rank(distribution: jax.Array, values: jax.Array) -> jax.Array:
    below, upto = (
        jnp.searchsorted(distribution, values, side=side).astype(jnp.float32)
        for side in ("left", "right")
    )
    return (below + upto) / (2 * len(distribution))

"""Measures by name: what can be told of a text's difficulty from its token ids alone.

A new one is a `Measure` and its place in `MEASURES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.dynamic.vocabulary import Vocabulary


class Measure(NamedTuple):
    """A pure function `value(ids, vocabulary, idf) -> float32 (batch,)`.

    Ids are int32 `(batch, length)`, idf float32 `(vocabulary,)`. Padding, whatever there is of it,
    and special tokens make no difference; a text without tokens measures 0.

    Attributes:
        name: its name in `MEASURES`.
        value: the function.
    """

    name: str
    value: Callable[[jax.Array, Vocabulary, jax.Array], jax.Array]


def first_occurrences(ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The ids of each row sorted, and whether each is the first of its kind; `(batch, length)`."""
    ordered = jnp.sort(ids, axis=1)
    new = ordered[:, 1:] != ordered[:, :-1]
    return ordered, jnp.concatenate([jnp.ones_like(new, shape=(len(ids), 1)), new], axis=1)


def _sum(ids: jax.Array, table: jax.Array) -> jax.Array:
    return jnp.take(table, ids, axis=0).sum(axis=1)


def _length(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    return _sum(ids, vocabulary.counted)


def _per(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.maximum(count, 1)


def _rarity(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    return _per(_sum(ids, vocabulary.counted * idf), _length(ids, vocabulary, idf))


def _rarest(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    return jnp.take(vocabulary.counted * idf, ids, axis=0).max(axis=1)


def _clauses(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    return _sum(ids, vocabulary.clause)


def _contrasts(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    return _sum(ids, vocabulary.contrast)


def _variety(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    ordered, first = first_occurrences(ids)
    counted = jnp.take(vocabulary.counted, ordered, axis=0)
    return _per(jnp.where(first, counted, 0).sum(axis=1), counted.sum(axis=1))


def _pieces(ids: jax.Array, vocabulary: Vocabulary, idf: jax.Array) -> jax.Array:
    return _per(_length(ids, vocabulary, idf), _sum(ids, vocabulary.starts))


rarity = Measure("rarity", _rarity)
"""Sum over distinct tokens of tf idf, tf the share of the text: the mean of the tokens' idf.

Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval"; idf of Spärck
Jones 1972, "A statistical interpretation of term specificity".
"""

rarest = Measure("rarest", _rarest)
"""The greatest idf."""

length = Measure("length", _length)
"""The number of tokens."""

clauses = Measure("clauses", _clauses)
"""How many tokens open a clause: commas, conjunctions, relatives."""

contrasts = Measure("contrasts", _contrasts)
"""How many tokens negate or contrast."""

variety = Measure("variety", _variety)
"""Type-token ratio: distinct tokens over tokens (Templin 1957)."""

pieces = Measure("pieces", _pieces)
"""Mean pieces a word: rare and long words are of several."""

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (rarity, rarest, length, clauses, contrasts, variety, pieces)
}

"""Texts in which some words are others: the data augmentation of TinyBERT, as pure functions.

Jiao et al., "TinyBERT", arXiv:1909.10351, algorithm 1. For each word of a text there are K
candidates: where the word is one token, those that a masked language model finds likeliest in its
place; where it is several, the nearest to their mean in a table of embeddings. In a copy of the
text, each word gives way with probability p to one of its candidates, whichever.

The paper's table is GloVe's; here it is whichever is given. As in the paper's code, what has no
letters is no word, and candidates are whole words.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Fill = Callable[[np.ndarray, np.ndarray], jax.Array]
"""(token ids (rows, length), one place of each (rows,)) -> the logits there (rows, tokens)."""

_ROWS = 128
"""Texts filled, or words compared, at a time."""
_STEP = 16
"""Texts are as long as the longest among them, rounded up to a multiple of this."""


class Vocabulary(NamedTuple):
    """What tokens are.

    Attributes:
        whole: bool (tokens,): letters alone, from the start of a word.
        continues: bool (tokens,): goes on with the word of the token before, as `##ly` does.
        special: bool (tokens,): no text, as `[SEP]`.
        mask: the id of `[MASK]`.
    """

    whole: np.ndarray
    continues: np.ndarray
    special: np.ndarray
    mask: int


class Words(NamedTuple):
    """The words of some texts, in order.

    Attributes:
        text: int (words,), which text.
        start: int (words,), the place of the first token.
        stop: int (words,), that after the last one.
    """

    text: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def vocabulary(reader: "Tokenizer") -> Vocabulary:
    """That of a tokenizer of word pieces."""
    ids = reader.get_vocab()
    tokens = sorted(ids, key=lambda token: ids[token])
    return Vocabulary(
        whole=np.array([token.isalpha() for token in tokens]),
        continues=np.array([token.startswith("##") for token in tokens]),
        special=np.array([len(t) > 2 and (t[0], t[-1]) == ("[", "]") for t in tokens]),
        mask=ids["[MASK]"],
    )


def find(ids: np.ndarray, vocabulary: Vocabulary) -> Words:
    """The words of texts `(texts, length)`.

    >>> kinds = (np.array([kind == k for kind in "s_wwcs"]) for k in "wcs")
    >>> known = Vocabulary(*kinds, mask=5)
    >>> words = find(np.array([[2, 3, 4, 4, 1, 0]]), known)
    >>> [(int(start), int(stop)) for start, stop in zip(words.start, words.stop)]
    [(0, 1), (1, 4)]
    """
    length = ids.shape[1]
    ends = np.where(vocabulary.continues[ids], length, np.arange(length))
    # The first place from each on that does not go on with a word.
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    ends = np.pad(ends[:, 1:], ((0, 0), (0, 1)), constant_values=length)
    text, start = np.nonzero(vocabulary.whole[ids])
    return Words(text, start, ends[text, start])


def candidates(
    ids: np.ndarray,
    words: Words,
    vocabulary: Vocabulary,
    fill: Fill,
    table: np.ndarray,
    count: int,
) -> np.ndarray:
    """What each word may be replaced by: int32 `(words, count)`, the best first.

    Args:
        ids: the texts, `(texts, length)`, 0 where one has ended.
        words: of them.
        vocabulary: which tokens may be candidates.
        fill: a masked language model, compiled: called with few different shapes.
        table: embeddings `(tokens, width)`.
        count: the paper's K.
    """
    allowed = jnp.asarray(vocabulary.whole)

    @jax.jit
    def best(scores: jax.Array) -> jax.Array:
        return jax.lax.top_k(jnp.where(allowed, scores, -jnp.inf), count)[1]

    unit = jnp.asarray(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12))
    near = jax.jit(lambda means: best(means @ unit.T))
    found = np.empty((len(words.text), count), np.int32)
    single = words.stop - words.start == 1

    lengths = (ids != 0).sum(1)[words.text]
    alone = np.flatnonzero(single)
    alone = alone[np.argsort(lengths[alone], kind="stable")]
    for start in range(0, len(alone), _ROWS):
        chosen = alone[start : start + _ROWS]
        # The last batch is filled up, so that it needs no program of its own.
        rows = np.resize(chosen, _ROWS)
        longest = -(-int(lengths[chosen].max()) // _STEP) * _STEP
        masked = ids[words.text[rows], :longest]
        masked[np.arange(_ROWS), words.start[rows]] = vocabulary.mask
        found[chosen] = best(fill(masked, words.start[rows]))[: len(chosen)]

    pieces = np.flatnonzero(~single)
    places = np.arange(ids.shape[1])
    for start in range(0, len(pieces), _ROWS):
        chosen = pieces[start : start + _ROWS]
        rows = np.resize(chosen, _ROWS)
        inside = (places >= words.start[rows, None]) & (places < words.stop[rows, None])
        means = np.stack(
            [
                table[ids[words.text[row], own]].mean(0)
                for row, own in zip(rows, inside, strict=True)
            ]
        )
        found[chosen] = near(means)[: len(chosen)]
    return found


def replaced(
    ids: np.ndarray, words: Words, candidates: np.ndarray, share: float, seed: int, copy: int
) -> np.ndarray:
    """A copy of the texts `(texts, length)` in which words are others.

    A word of several tokens becomes one of one; the text gets shorter, and ends in more zeros.

    Args:
        ids: the texts.
        words: of them.
        candidates: for each word, `(words, count)`.
        share: the probability that a word is replaced (the paper's p_t).
        seed: decides, with `copy`, which words and by what.
        copy: its number.
    """
    random = np.random.default_rng((seed, copy))
    chosen = random.random(len(words.text)) < share
    picks = random.integers(candidates.shape[1], size=len(words.text))
    text, start, stop = (place[chosen] for place in words)
    made = ids.copy()
    made[text, start] = candidates[chosen, picks[chosen]]
    # The other tokens of a word are taken out: from one past its first to its end.
    edges = np.zeros((ids.shape[0], ids.shape[1] + 1), np.int32)
    np.add.at(edges, (text, start + 1), 1)
    np.add.at(edges, (text, stop), -1)
    out = edges.cumsum(1)[:, :-1] > 0
    made[out] = 0
    return np.take_along_axis(made, np.argsort(out, axis=1, kind="stable"), axis=1)

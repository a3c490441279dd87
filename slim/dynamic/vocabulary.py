"""What the ids of a vocabulary of word pieces mean to the measures of a text."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CLAUSES = _words(
    """
    , ; : - ( and or but because since so that which who whom whose if when where while as after
    before until unless
    """
)
"""What opens another clause or phrase: punctuation inside a sentence, conjunctions, relatives."""

CONTRASTS = _words(
    """
    not no never nothing none neither nor nobody without hardly barely scarcely cannot don doesn
    didn isn aren wasn weren wouldn couldn shouldn hasn haven hadn ain but however although though
    yet despite nevertheless nonetheless whereas instead rather except unless
    """
)
"""What turns a statement round: negations (of "don't" the piece before the apostrophe), contrasts.

These are what simple models of sentiment get wrong (Wiegand et al. 2010, "A survey on the role of
negation in sentiment analysis"; Socher et al. 2013, "Recursive deep models").
"""


class Vocabulary(NamedTuple):
    """A table of the ids; all float32 `(vocabulary,)`, 1 where it is so and 0 elsewhere.

    Attributes:
        counted: a piece of the text, not padding, [CLS] or [SEP].
        starts: a piece that starts a word.
        clause: one of the words that open a clause.
        contrast: one of the words that negate or contrast.
    """

    counted: jax.Array
    starts: jax.Array
    clause: jax.Array
    contrast: jax.Array


def read_vocabulary(
    pieces: Mapping[str, int],
    *,
    special: Iterable[int] = (0, 101, 102),
    continuation: str = "##",
    clauses: Iterable[str] = CLAUSES,
    contrasts: Iterable[str] = CONTRASTS,
) -> Vocabulary:
    """The table of a tokenizer's pieces.

    Args:
        pieces: id by piece, as `tokenizers.Tokenizer.get_vocab()` gives it.
        special: ids that are not of the text; BERT's padding, [CLS] and [SEP].
        continuation: how a piece begins that goes on with a word.
        clauses: the words of `Vocabulary.clause`; those that are not one piece are left out.
        contrasts: those of `Vocabulary.contrast`, alike.

    Raises:
        ValueError: no pieces, an id below 0, a special id that no piece has, words of which not
            one is a piece.

    >>> pieces = {"[PAD]": 0, "fine": 1, "##ly": 2, ",": 3, "not": 4, "[SEP]": 5}
    >>> table = read_vocabulary(pieces, special=(0, 5))
    >>> table.starts.tolist(), table.clause.tolist(), table.contrast.tolist()
    ([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    """
    if not pieces or min(pieces.values()) < 0:
        raise ValueError(
            f"pieces: {len(pieces)} of them, the least id {min(pieces.values(), default=None)}; "
            "give at least one, with ids from 0"
        )
    size, known = max(pieces.values()) + 1, set(pieces.values())
    special = tuple(special)
    if missing := [each for each in special if each not in known]:
        raise ValueError(
            f"special ids {missing} are of no piece; allowed are the ids of `pieces`, "
            f"0 to {size - 1}: give those of this tokenizer's padding, [CLS] and [SEP]"
        )

    def table(ids: Iterable[int]) -> jax.Array:
        marked = np.zeros(size, np.float32)
        marked[list(ids)] = 1
        return jnp.asarray(marked)

    def words(field: str, among: Iterable[str]) -> jax.Array:
        among = tuple(among)
        ids = [pieces[word] for word in among if word in pieces]
        if among and not ids:
            raise ValueError(
                f"{field}: none of {', '.join(among[:5])} ... is a piece; give words as this "
                "tokenizer writes them, or () for none"
            )
        return table(ids)

    counted = 1 - table(special)
    goes_on = table(i for piece, i in pieces.items() if piece.startswith(continuation))
    return Vocabulary(
        counted, counted * (1 - goes_on), words("clauses", clauses), words("contrasts", contrasts)
    )

"""Byte-level byte-pair encoding: any text as ids of tokens that were learnt from some.

Sennrich et al., arXiv:1508.07909; on bytes, as Radford et al., "Language models are unsupervised
multitask learners", 2019, have it, so that no text has an unknown token. The library `tokenizers`
does both; what it learns depends on the texts alone.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END, END_ID = "<|end|>", 0
"""What stands after each document."""
SMALLEST = 257
"""Tokens that there are before any is learnt: the bytes and the end."""
_CHUNK = 1024
"""Documents that are encoded at a time."""


def train(documents: Sequence[str], vocabulary: int) -> "Tokenizer":
    """A tokenizer of at most so many tokens, fewer where the documents have no more pairs.

    Raises:
        ModuleNotFoundError: the library is not installed; the message has the command.
    """
    check()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(documents, trainer)
    return made


def check() -> None:
    """Refuses to go on without the library.

    Raises:
        ModuleNotFoundError: it is not installed; the message has the command.
    """
    try:
        import tokenizers  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "texts are tokenized by a library that is not installed: pip install tokenizers"
        ) from None


def stream(tokenizer: "Tokenizer", documents: Sequence[str]) -> np.ndarray:
    """The documents' tokens one after the other, each document ended by `END`: int32 (tokens,).

    A document in which `END` is written has it in letters.
    """
    tokenizer.encode_special_tokens = True

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(documents), _CHUNK):
            for each in tokenizer.encode_batch_fast(list(documents[start : start + _CHUNK])):
                yield np.array([*each.ids, END_ID], np.int32)

    return np.concatenate([np.empty(0, np.int32), *parts()])


def names(tokenizer: "Tokenizer") -> tuple[str, ...]:
    """The tokens by id, as the library writes them: a letter for each byte."""
    ids = tokenizer.get_vocab()
    return tuple(sorted(ids, key=lambda token: ids[token]))


def byte_counts(names: Sequence[str]) -> np.ndarray:
    """How many bytes of text each token is, int64 (tokens,); the end of a document is none."""
    return np.array([0 if name == END else len(name) for name in names])

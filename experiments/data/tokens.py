"""Texts, or pairs of them, as rows of ids of MiniLM's tokens."""

import logging
from collections.abc import Sequence

import numpy as np

from experiments.schema import ConfigError
from experiments.weights import minilm

LOG = logging.getLogger("slim")

_CHUNK = 4096
"""Texts tokenized at a time; what the tokenizer gives takes far more memory than ids."""


def check(name: str) -> None:
    """Refuses a set of texts where there is no tokenizer.

    Raises:
        ConfigError: its package is not installed, or the library; the message has the command.
    """
    try:
        minilm.tokenizer()
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise ConfigError(f"data.name = {name!r}: {error}") from None


def tokenize(
    texts: Sequence[str] | Sequence[tuple[str, str]], length: int, what: str
) -> np.ndarray:
    """Token ids int32 `(len(texts), length)`, 0 where a text has ended.

    A text is `[CLS] text [SEP]`, an empty one `[CLS] [SEP]`, a pair `[CLS] first [SEP] second
    [SEP]`. Longer texts lose their ends, pairs that of the longer text or, where both are long, of
    both; how many is logged. Ids are all there is: models give both texts of a pair the first
    segment's embedding, and tell them apart by the `[SEP]` between them.

    Args:
        texts: texts, or pairs.
        length: of a row.
        what: the texts are, for the log.
    """
    reader = minilm.tokenizer()
    reader.enable_truncation(length)
    reader.enable_padding(length=length, pad_id=reader.token_to_id("[PAD]"))
    ids = np.empty((len(texts), length), np.int32)
    cut = 0
    for start in range(0, len(texts), _CHUNK):
        encoded = reader.encode_batch_fast(list(texts[start : start + _CHUNK]))
        ids[start : start + len(encoded)] = [each.ids for each in encoded]
        cut += sum(bool(each.overflowing) for each in encoded)
    if cut:
        LOG.info("%s: %d of %d texts are cut to %d tokens", what, cut, len(texts), length)
    return ids

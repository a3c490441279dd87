"""A training split with copies in which words are others, made once and kept on disk.

DATA_DIR/replaced_words/KEY.safetensors     the copies' token ids, and what they were made by

The key is a hash of the texts, of the masked language model, and of what is asked.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import Field

from experiments.data import words
from experiments.data.sources import ArraySource, Source
from experiments.schema import ConfigError, Schema, one_of
from experiments.weights import hugging_face, minilm, safetensors_store
from slim.models.bert import CONFIGS, PADDING, MaskedLM, bert_config

LOG = logging.getLogger("slim")

VERSION = 1
"""Part of every key: raised when the same would make other copies."""


class ReplaceWords(Schema):
    """TinyBERT's augmentation: see `experiments.data.words`. The defaults but `copies` are its.

    Attributes:
        model: a masked language model: a BERT's checkpoint with `cls.predictions.*`, as Hugging
            Face names them, a file or its folder; `experiments.weights.masked_lm` trains one. Its
            token embeddings are the table in which words of several tokens have neighbours.
        size: of that model; a name of `slim.models.bert.CONFIGS`.
        copies: of each text, beside the text itself; the paper has 20, of small sets 30.
        share: the probability that a word of a copy is replaced.
        candidates: how many words it may become.
        seed: of which words are replaced, and by what.
    """

    model: str
    size: Annotated[str, one_of(CONFIGS)]
    copies: Annotated[int, Field(ge=1)] = 4
    share: Annotated[float, Field(gt=0, le=1)] = 0.4
    candidates: Annotated[int, Field(ge=1)] = 15
    seed: Annotated[int, Field(ge=0)] = 0


def check(config: ReplaceWords, length: int) -> None:
    """Refuses a model that is not there, or too short for the texts.

    Raises:
        ConfigError: see above.
    """
    field = "data.replace_words"
    try:
        hugging_face.file_of(config.model)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{field}.model = {config.model!r}: {error}; `python -m experiments.weights.masked_lm` "
            "trains one"
        ) from None
    if length > (most := bert_config(config.size).positions):
        raise ConfigError(f"{field}.size = {config.size!r}: data.length = {length} is above {most}")


def extend(source: Source, config: ReplaceWords, data_dir: Path) -> ArraySource:
    """The texts of a source, then so many copies of all of them, with their texts' labels.

    Raises:
        ConfigError: the model's file is damaged or not of that size.
        OSError: the copies could not be kept.
    """
    ids, labels = source.gather(np.arange(len(source)))
    kept = data_dir / "replaced_words" / f"{_key(source, config)}.safetensors"
    copies = _read(kept)
    if copies is None:
        copies = _make(ids, config, kept)
        said = config.model_dump(mode="json")
        kept.parent.mkdir(parents=True, exist_ok=True)
        safetensors_store.save(kept, {"ids": copies}, said)
    return ArraySource(
        np.concatenate([ids, *copies]), np.tile(labels, 1 + config.copies).astype(np.int32)
    )


def _key(source: Source, config: ReplaceWords) -> str:
    said = config.model_dump(mode="json", exclude={"model"})
    digest = hashlib.sha256(json.dumps([VERSION, source.fingerprint(), said]).encode())
    with hugging_face.file_of(config.model).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _read(kept: Path) -> np.ndarray | None:
    """The copies that were kept; None if there are none, or they are damaged."""
    if not kept.exists():
        return None
    try:
        tensors, _ = safetensors_store.load(kept)
    except ValueError as error:
        LOG.error("the copies of texts are made anew: %s", error)
        return None
    LOG.info("the copies of texts with other words are those in %s", kept)
    copies: np.ndarray = tensors["ids"]
    return copies


def _make(ids: np.ndarray, config: ReplaceWords, kept: Path) -> np.ndarray:
    """The copies, int32 `(copies, texts, length)`."""
    model = MaskedLM(bert_config(config.size))
    try:
        variables = hugging_face.convert(hugging_face.read(config.model), model)
    except ValueError as error:
        raise ConfigError(f"data.replace_words.model = {config.model!r}: {error}") from None
    placed = jax.device_put(variables, jax.local_devices()[0])

    @jax.jit
    def logits(variables: dict[str, Any], ids: jax.Array, places: jax.Array) -> jax.Array:
        at: Any = model.apply(
            variables, ids, ids != PADDING, places[:, None], train=False, method="at"
        )
        return at[:, 0]

    known = words.vocabulary(minilm.tokenizer())
    found = words.find(ids, known)
    LOG.info("other words for %d in %d texts, into %s", len(found.text), len(ids), kept.parent)
    others = words.candidates(
        ids,
        found,
        known,
        lambda ids, places: logits(placed, ids, places),
        variables["params"]["embeddings"]["token"],
        config.candidates,
    )
    each = [
        words.replaced(ids, found, others, config.share, config.seed, copy)
        for copy in range(config.copies)
    ]
    return np.stack(each)

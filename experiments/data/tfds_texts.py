"""Texts with labels, and pairs of texts, that TFDS has prepared on this machine: GLUE and others.

Wang et al., "GLUE", https://arxiv.org/abs/1804.07461; `glue/stsb`, whose labels are no classes, is
left out. GLUE's test splits have no labels, so it is evaluated on the validation split.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import tokens
from experiments.data.info import TEXT
from experiments.data.located import Located
from experiments.data.sources import ArraySource
from experiments.schema import ConfigError
from experiments.weights import minilm

NAMES = ("glue", "imdb_reviews", "ag_news_subset", "yelp_polarity_reviews")
"""Sets that are known to be of texts before they are looked at; others are where `length` is."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
"""What sets call the two texts of an example, in the order in which they are read."""

EVAL_SPLITS = {"glue": ("validation", "validation_matched")}
"""Splits to evaluate on of sets whose test split has no labels."""

_CHUNK = 4096
"""Records read at a time."""


def text_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    """The features of an example that are its texts: one, or the two of a pair; () for none.

    The one that the set itself calls the input, else a pair of `PAIRS`, else all there are.
    """
    texts = [
        key
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Text) and feature.shape == ()
    ]
    supervised = (builder.info.supervised_keys or ("",))[0]
    if supervised in texts:
        return (supervised,)
    return next((pair for pair in PAIRS if {*pair} <= {*texts}), tuple(texts))


def locate(name: str, builder: tfds.core.DatasetBuilder, length: int) -> Located:
    """A prepared set, unread; a text has so many tokens, as `tokens.tokenize` says.

    Raises:
        ConfigError: its examples are not texts of classes, or there is no tokenizer.
    """
    info = builder.info
    keys = text_keys(builder)
    label_key = (info.supervised_keys or ("", "label"))[1]
    label = dict(info.features.items()).get(label_key)
    there = ", ".join(f"{k} ({type(feature).__name__})" for k, feature in info.features.items())
    if not keys or not isinstance(label, tfds.features.ClassLabel):
        raise ConfigError(
            f"data.name = {name!r}: not a set for classification of texts, which data.length = "
            f"{length} asks for: it has {there}"
        )
    if len(keys) > 1 and keys not in PAIRS:
        raise ConfigError(
            f"data.name = {name!r}: which of its texts to read is not known: it has {there}; a set "
            "must have one text, name its input, or have a pair: "
            + ", ".join(map(" + ".join, PAIRS))
        )
    tokens.check(name)

    def open_split(spec: str, resize: tuple[int, int] | None) -> ArraySource:
        del resize  # of images
        texts, labels = _read(builder.as_data_source(spec), keys, label_key)
        if labels.min(initial=0) < 0:
            raise ConfigError(
                f"data.name = {name!r}: the split {spec!r} has no labels (-1); choose another"
            )
        return ArraySource(tokens.tokenize(texts, length, f"{name} {spec}"), labels)

    return Located(
        splits={split: part.num_examples for split, part in info.splits.items()},
        input_shape=(length,),
        class_names=tuple(label.names or map(str, range(label.num_classes))),
        origin=f"TFDS {info.full_name} in {builder.data_path}; tokens of {minilm.PACKAGE}",
        open=open_split,
        modality=TEXT,
        eval_splits=EVAL_SPLITS.get(info.name, Located.eval_splits),
    )


def _read(records: Any, keys: tuple[str, ...], label_key: str) -> tuple[list[Any], np.ndarray]:
    """All texts, or pairs, and their labels, int32."""
    texts: list[Any] = []
    labels: list[int] = []

    def text(record: Mapping[str, Any], key: str) -> str:
        return str(record[key], "utf-8")

    for start in range(0, len(records), _CHUNK):
        for record in records.__getitems__(range(start, min(start + _CHUNK, len(records)))):
            found = tuple(text(record, key) for key in keys)
            texts.append(found if len(keys) > 1 else found[0])
            labels.append(record[label_key])
    return texts, np.array(labels, np.int32)

"""Texts with labels, from PyPI packages, as the ids of MiniLM's tokens.

The packages have no test split, so each set has one here, fixed for ever: the first texts in
`by_hash`'s order; the others are for training.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from experiments.data import bbc_news, movie_reviews, tokens
from experiments.data.info import TEXT
from experiments.data.located import Located, ranges
from experiments.data.sources import ArraySource
from experiments.schema import ConfigError
from experiments.weights import minilm
from experiments.weights.installed import installed_files


class TextSet(NamedTuple):
    """A set of the table.

    Attributes:
        read: gives all texts and their labels, int32, in `by_hash`'s order.
        package: that they come in, as pip is asked for it.
        test: how many of them, the first, are for testing.
        train: how many others there are.
        class_names: the labels' names, in order.
    """

    read: Callable[[], tuple[list[str], np.ndarray]]
    package: str
    test: int
    train: int
    class_names: tuple[str, ...]


_REVIEWS = ("negative", "positive")

SETS: Mapping[str, TextSet] = {
    # As many as are for testing in the set that the package has the training part of.
    "rotten_tomatoes": TextSet(
        partial(movie_reviews.read, "rotten_tomatoes"), movie_reviews.PACKAGE, 1066, 7464, _REVIEWS
    ),
    "imdb": TextSet(
        partial(movie_reviews.read, "imdb"), movie_reviews.PACKAGE, 5000, 20_000, _REVIEWS
    ),
    "bbc_news": TextSet(bbc_news.read, bbc_news.PACKAGE, 445, 1780, bbc_news.TOPICS),
}


def locate(name: str, length: int) -> Located:
    """A set of `SETS`, unread; a text has so many tokens, as `tokens.tokenize` says.

    Raises:
        ConfigError: its package, or that of the tokenizer, is not installed; the message has the
            command.
    """
    found = SETS[name]
    try:
        installed_files(found.package, "*")
    except FileNotFoundError as error:
        raise ConfigError(f"data.name = {name!r}: {error}") from None
    tokens.check(name)
    splits = {"train": found.train, "test": found.test}
    first = {"train": found.test, "test": 0}
    read = cache(found.read)

    def open_split(spec: str, resize: tuple[int, int] | None) -> ArraySource:
        del resize  # of images
        indices = [first[split] + i for split, part in ranges(spec, splits, "split") for i in part]
        texts, labels = read()
        ids = tokens.tokenize([texts[i] for i in indices], length, f"{name} {spec}")
        return ArraySource(ids, labels[indices])

    return Located(
        splits=splits,
        input_shape=(length,),
        class_names=found.class_names,
        origin=f"{found.package}, inside its wheel; tokens of {minilm.PACKAGE}",
        open=open_split,
        modality=TEXT,
    )

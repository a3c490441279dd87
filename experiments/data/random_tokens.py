"""Tokens at random, of any vocabulary: nothing can be learnt from them but how long it takes.

For dry runs of models whose vocabulary is no data set's here, and for trials of speed.
"""

import numpy as np

from experiments.data.info import LANGUAGE
from experiments.data.located import Located, ranges
from experiments.data.packed import PackedSource
from experiments.data.sources import Source

NAME = "random_tokens"
SIZES = {"train": 65_536, "validation": 256}
"""Rows."""


def locate(length: int, vocabulary: int) -> Located:
    """The set, in rows of so many tokens; a slice's rows are the same at each call."""

    def open_split(spec: str, resize: tuple[int, int] | None) -> Source:
        del resize  # of images
        found = ranges(spec, SIZES, "split")
        count = sum(len(part) for _, part in found)
        random = np.random.default_rng(list(spec.encode()))
        rows = random.integers(vocabulary, size=(count, length + 1), dtype=np.int32)
        return PackedSource([rows], np.full(vocabulary, np.nan))

    return Located(
        splits=SIZES,
        input_shape=(length,),
        class_names=tuple(map(str, range(vocabulary))),
        origin="drawn at random",
        open=open_split,
        modality=LANGUAGE,
        eval_splits=("validation",),
    )

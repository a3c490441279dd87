"""Scikit-learn's digits: 1,797 real images of 8x8 pixels that lie in its wheel."""

import importlib.metadata

import numpy as np

from experiments.data.located import Located, ranges
from experiments.data.sources import ArraySource, fit

SPLITS = {"train": 1437, "test": 360}
"""The first 80% and the rest in the file's order, which goes writer by writer."""

_MAX = 16
"""A pixel counts the black ones of 4x4."""


def locate() -> Located:
    """The set, without reading it."""
    return Located(
        splits=SPLITS,
        input_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        origin=f"scikit-learn {importlib.metadata.version('scikit-learn')}, inside its wheel",
        open=_open,
    )


def _open(spec: str, resize: tuple[int, int] | None) -> ArraySource:
    from sklearn.datasets import load_digits  # here, since it takes a second to import

    data = load_digits()
    images = np.rint(data.images * (255 / _MAX)).astype(np.uint8)[..., None]
    first = {"train": 0, "test": SPLITS["train"]}
    indices = np.concatenate(
        [first[split] + np.array(positions) for split, positions in ranges(spec, SPLITS, "split")]
    )
    images = images[indices]
    if resize is not None:
        images = np.stack([fit(image, resize) for image in images])
    return ArraySource(images, data.target[indices].astype(np.int32))

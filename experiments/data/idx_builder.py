"""A TFDS builder, free of TensorFlow and of the network, for sets that lie on disk as IDX files.

The stock `mnist` and `fashion_mnist` builders download, and call TensorFlow while they prepare.
"""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from experiments.data import idx
from experiments.data.info import STATISTICS

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
"""The sets that can be made of IDX files, and what their labels mean."""

_OTHER_SET = 0.05
"""Further than this from a set's mean pixel, the images are of another set."""


class IdxImages(tfds.core.GeneratorBasedBuilder):
    """28x28 grey images and labels from four IDX files; a configuration for each set.

    The examples keep the files' order. Images are stored as raw tensors and not as PNG, which
    would take several times as long to decode at every start.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in CLASS_NAMES)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The four IDX files, raw or gzipped."

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES[self.builder_config.name]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        folder, name = Path(dl_manager.manual_dir), self.builder_config.name
        arrays = {split: read_split(folder, split, name) for split in idx.SPLITS}
        return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}


def read_split(folder: Path, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) and labels (n,) of a split, uint8, checked against each other and `name`.

    Raises:
        idx.IdxError: a file is missing or broken, the two do not fit each other, or they are
            another set's, whose files have the same names.
    """
    files = idx.find(folder, split)
    if files is None:
        raise idx.IdxError(f"{folder}: no images or no labels of {split!r} there")
    images, labels = idx.read(files[0]), idx.read(files[1])
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not len(labels):
        raise idx.IdxError(
            f"{files[0]} of shape {images.shape} and {files[1]} of shape {labels.shape}: "
            "must be (n, 28, 28) and (n,), n > 0"
        )
    if set(np.unique(labels)) != set(range(len(CLASS_NAMES[name]))):
        raise idx.IdxError(
            f"{files[1]}: labels {np.unique(labels).tolist()}; each of 0 to 9 must occur, no other"
        )
    mean, expected = images.mean() / 255, STATISTICS[name][0][0]
    if abs(mean - expected) > _OTHER_SET:
        raise idx.IdxError(
            f"{files[0]}: the mean pixel is {mean:.3f}, that of {name} is {expected:.3f}: "
            "these are the files of another set"
        )
    return images, labels


def prepare(name: str, folder: Path, data_dir: Path) -> tfds.core.DatasetBuilder:
    """The prepared set `name` under `data_dir`, made from the IDX files in `folder` if need be.

    TFDS writes to a folder of another name and renames it at the end, so a killed process leaves
    nothing that could be taken for the set; of processes that start together one prepares.

    Raises:
        idx.IdxError: the files are broken, or do not fit each other or the set.
        OSError: `data_dir` cannot be written.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / f"{IdxImages.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder = IdxImages(config=name, data_dir=data_dir)
        if not builder.is_prepared():
            logging.info("Preparing %s from %s: some seconds, once", name, folder)
            tfds.disable_progress_bar()
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(manual_dir=folder),
            )
    return builder

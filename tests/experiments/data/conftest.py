"""Tiny sets on disk: IDX files that pass for Fashion-MNIST, and a TFDS set of photographs."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

SIZES = {"train": 40, "t10k": 20}
MEAN_PIXEL = 73  # Fashion-MNIST's, of 255


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Four IDX files whose images begin with their own number."""
    for split, size in SIZES.items():
        images = np.full((size, 28, 28), MEAN_PIXEL)
        images[:, 0, 0] = np.arange(size)
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", np.arange(size) % 10)
    return tmp_path


class Records(list):
    """What stands for a `tfds.data_source`."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


class Photos(tfds.core.GeneratorBasedBuilder):
    """Images of different sizes, each of one colour, as PNG; the test split has no labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(12, labelled=True),
            "validation": self._generate_examples(5, labelled=True),
            "unlabelled": self._generate_examples(5, labelled=False),
        }

    def _generate_examples(self, size, labelled):
        for i in range(size):
            image = np.full((20 + i, 30, 3), 10 * i, np.uint8)
            yield i, {"image": Image.fromarray(image), "label": i % 3 if labelled else -1}


@pytest.fixture(scope="session")
def photos_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")
    Photos(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder

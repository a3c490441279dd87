"""Random access to examples by many indices at once: from arrays in memory, or from records."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

_CHUNK = 1024
"""Records decoded at a time while a split is read to memory."""


class Source(Protocol):
    """A split of labelled examples."""

    in_memory: bool
    """Whether `gather` is a copy in memory, not worth a thread of its own."""

    def __len__(self) -> int:
        """How many examples there are."""

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels (count,) int32.

        Inputs are uint8 (count, height, width, channels) or int32 (count, length).
        """

    def fingerprint(self) -> str:
        """A hash that changes when the examples do."""


class ArraySource:
    """Examples that lie in memory."""

    in_memory = True

    def __init__(self, inputs: np.ndarray, labels: np.ndarray) -> None:
        """Keeps `inputs` (n, ...) and `labels` (n,) int32."""
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.inputs)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`: one NumPy gather."""
        return self.inputs[indices], self.labels[indices]

    def fingerprint(self) -> str:
        """See `Source`: of the bytes themselves."""
        digest = hashlib.sha256(repr(self.inputs.shape).encode())
        digest.update(self.inputs.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


class RecordSource:
    """Images that are read from disk, decoded and resized whenever they are asked for."""

    in_memory = False

    def __init__(
        self,
        records: Any,
        keys: tuple[str, str],
        resize: tuple[int, int] | None = None,
        identity: str = "",
    ) -> None:
        """Wraps a `tfds.data_source`.

        Args:
            records: a sequence of dicts, with `__getitems__` for many at once.
            keys: the names of image and label in a record.
            resize: (height, width) of the images that `gather` returns; None: as they are.
            identity: what tells these records from others: name, version, split, bytes.
        """
        self.records = records
        self.keys = keys
        self.resize = resize
        self.identity = identity

    def __len__(self) -> int:
        return len(self.records)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Source`: reads and decodes.

        Raises:
            ValueError: a record without a label, which TFDS marks by -1.
        """
        image_key, label_key = self.keys
        records = self.records.__getitems__(indices.tolist())
        labels = np.array([record[label_key] for record in records], np.int32)
        if labels.min(initial=0) < 0:
            raise ValueError(f"{self.identity}: this split has no labels (-1); choose another")
        images = [record[image_key] for record in records]
        if self.resize is not None:
            images = [fit(image, self.resize) for image in images]
        return np.stack(images), labels

    def fingerprint(self) -> str:
        """See `Source`: of the identity, since reading all would take too long."""
        return hashlib.sha256(f"{self.identity} {self.resize}".encode()).hexdigest()


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest centred box with the sides' ratio of `size`, scaled to it with antialiasing.

    Args:
        image: (height, width, channels) uint8, with 1 or 3 channels.
        size: (height, width) of the result.
    """
    height, width = size
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(height, width, image.shape[-1])


def read_to_memory(source: Source, image_shape: Sequence[int]) -> ArraySource:
    """Reads the whole of a source of images once; each has the shape `image_shape`."""
    images = np.empty((len(source), *image_shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        chunk = slice(start, min(start + _CHUNK, len(source)))
        images[chunk], labels[chunk] = source.gather(np.arange(chunk.start, chunk.stop))
    return ArraySource(images, labels)

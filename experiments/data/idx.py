"""The IDX format of MNIST's distribution: a big-endian header, then the array's bytes.

0x00 0x00 <type> <rank>, one uint32 per dimension, elements in C order
(yann.lecun.org/exdb/mnist); here of unsigned bytes (type 0x08), raw or gzipped.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

_UNSIGNED_BYTE = 0x08

SPLITS = {"train": "train", "test": "t10k"}
"""What MNIST's file names call each split."""


class IdxError(ValueError):
    """A file that is not a whole IDX file of unsigned bytes; the message names it and says why."""


def read(path: Path) -> np.ndarray:
    """The array of an IDX file, uint8, of whatever rank.

    Raises:
        IdxError: truncated, corrupt, too long, or another type.
    """
    with _opened(path) as file:
        shape = _header(file, path)
        size = int(np.prod(shape))
        data = file.read(size + 1)
    if len(data) != size:
        how = "truncated" if len(data) < size else "too long"
        raise IdxError(f"{path}: {how}: the header says {shape}, {size} bytes; it has {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_shape(path: Path) -> tuple[int, ...]:
    """The array's shape, from the header alone.

    Raises:
        IdxError: no header, or another type.
    """
    with _opened(path) as file:
        return _header(file, path)


def find(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The files of a split's images and labels in a folder; None where either is missing.

    Both spellings are found, `-idx3-ubyte` and `.idx3-ubyte`, raw or with `.gz`.
    """

    def file(kind: str, rank: int) -> Path | None:
        names = (
            f"{SPLITS[split]}-{kind}{separator}idx{rank}-ubyte{ending}"
            for separator in "-."
            for ending in ("", ".gz")
        )
        return next((folder / name for name in names if (folder / name).is_file()), None)

    images, labels = file("images", 3), file("labels", 1)
    return (images, labels) if images and labels else None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, unzipped on the way; faults of the compressed stream become `IdxError`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise IdxError(f"{path}: not a whole gzip file: {error}") from error


def _header(file: BinaryIO, path: Path) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE:
        raise IdxError(
            f"{path}: not an IDX file of unsigned bytes: it begins with {magic.hex(' ')!r}"
        )
    rank = magic[3]
    sizes = file.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise IdxError(f"{path}: truncated in its header")
    return struct.unpack(f">{rank}I", sizes)

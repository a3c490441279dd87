"""A stream of tokens as rows of one length, each with the tokens that come next."""

import hashlib
from collections.abc import Sequence

import numpy as np


def windows(stream: np.ndarray, length: int) -> np.ndarray:
    """A stream int32 (tokens,) as rows int32 (rows, length + 1), a view.

    A row ends with the token that the next row begins with, so that each token but the first is
    predicted once; what is left at the end and fills no row is not.

    >>> windows(np.arange(8), 3)
    array([[0, 1, 2, 3],
           [3, 4, 5, 6]])
    """
    if len(stream) <= length:
        return np.empty((0, length + 1), stream.dtype)
    return np.lib.stride_tricks.sliding_window_view(stream, length + 1)[::length]


class PackedSource:
    """Rows of a stream; see `experiments.data.sources.Source`.

    Documents run on over the borders of rows, and a row may hold parts of several: the token
    between them says so, and attention looks across it, as in GPT-3 (arXiv:2005.14165, 2.2) and
    DeepSeek-V3 (arXiv:2412.19437, 4.1).

    Attributes:
        rows: int32 (rows, length + 1): the inputs, and the last one's label.
        bytes_per_token: of the text that the labels stand for, a mean; NaN if it is not known.
    """

    in_memory = True

    def __init__(self, parts: Sequence[np.ndarray], byte_counts: np.ndarray) -> None:
        """Keeps the rows of all `parts`; `byte_counts` has the bytes of each token."""
        self.rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self.bytes_per_token = float(byte_counts[self.rows[:, 1:]].mean())

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, and labels, which are the inputs one further on: int32 (count, length)."""
        found = self.rows[indices]
        return found[:, :-1], found[:, 1:]

    def fingerprint(self) -> str:
        """A hash that changes when the examples do."""
        digest = hashlib.sha256(f"packed {self.rows.shape}".encode())
        digest.update(self.rows.tobytes())
        return digest.hexdigest()

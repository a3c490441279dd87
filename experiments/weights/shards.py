"""Checkpoints in several safetensors files, mapped into memory: weights larger than it is.

`model.safetensors.index.json` says which file a tensor is in. A file is 8 bytes of the header's
size, the header in JSON, and the tensors. The library's own reader has no NumPy arrays of bfloat16
and float8.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
"""The file of a checkpoint that is only one."""
DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
}
"""Of tensors, by safetensors' names."""


def shard_names(folder: Path) -> dict[str, str]:
    """The file of each tensor of a checkpoint.

    Raises:
        FileNotFoundError: the folder has no checkpoint.
    """
    if (folder / INDEX).is_file():
        index: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        return index
    if not (folder / SINGLE).is_file():
        raise FileNotFoundError(f"{folder} has neither {INDEX} nor {SINGLE}")
    return dict.fromkeys(open_shard(folder / SINGLE).header, SINGLE)


@dataclass(frozen=True)
class Shard:
    """A file of a checkpoint.

    Attributes:
        path: where it is.
        data: its bytes after the header.
        header: type, shape and first and last byte of each tensor.
    """

    path: Path
    data: np.ndarray
    header: Mapping[str, Any]

    def tensor(self, name: str) -> np.ndarray:
        """A view of the file.

        Raises:
            ValueError: it is not there, or of a type that no weight has.
        """
        if name not in self.header:
            raise ValueError(f"{self.path} has no tensor {name!r}, though the index says so")
        entry = self.header[name]
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"tensor {name!r} of {self.path} is {entry['dtype']}; allowed: {', '.join(DTYPES)}"
            )
        start, stop = entry["data_offsets"]
        if stop > self.data.size:
            raise ValueError(f"{self.path} is truncated: {name!r} ends beyond it; fetch it again")
        return self.data[start:stop].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])


def open_shard(path: Path) -> Shard:
    """The file, mapped into memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
        size = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + size].tobytes())
    except ValueError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}; fetch it again") from error
    header.pop("__metadata__", None)
    return Shard(path, data[8 + size :], header)


def dequantized(
    blocks: np.ndarray, scales: np.ndarray, dtype: DTypeLike, size: int = 128
) -> np.ndarray:
    """Float8 `(rows, columns)` times the scale of each `size` x `size` block, the last ones cut.

    Computed in float32, `size` rows at a time.

    Raises:
        ValueError: there is not one scale for each block.
    """
    expected = tuple(-(-n // size) for n in blocks.shape)
    if scales.shape != expected:
        raise ValueError(
            f"scales of shape {scales.shape} for a matrix {blocks.shape} in blocks of {size}; "
            f"expected {expected}"
        )
    result = np.empty(blocks.shape, dtype)
    for row, scale in enumerate(scales):
        strip = slice(row * size, (row + 1) * size)
        of_columns = np.repeat(scale, size)[: blocks.shape[1]]
        result[strip] = blocks[strip].astype(np.float32) * of_columns
    return result

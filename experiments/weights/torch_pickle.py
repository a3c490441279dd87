"""PyTorch's `.pth` files read into NumPy without PyTorch and without trusting the file.

A pickle may name any function and have it called. The reader here knows only the handful of names
that a state dict needs and binds them to inert records, so nothing in the file is ever run; a file
that names anything else is refused. Both layouts are read: the legacy one (before PyTorch 1.6:
pickles, then raw storages) and the zip archive.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes  # noqa: F401  # gives NumPy the name "bfloat16"
import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
ZIP_MAGIC = b"PK\x03\x04"

# Values are names, not dtypes: a pickle can alter the state of many objects, but not of a string.
STORAGE_DTYPES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class StorageRef(NamedTuple):
    """A flat buffer of `size` elements, named by `key`, elsewhere in the file."""

    dtype: str
    key: str
    size: int


class TensorRef(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RefusedError(Exception):
    """The file asks for something that a state dict has no need of."""


class _Unpickler(pickle.Unpickler):
    """Admits only storages, tensors made from them, and OrderedDict."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, StorageRef] = {}

        # Made anew for each file, so that a pickle cannot alter them for the next.
        def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
            return _tensor(storage, offset, shape, strides)

        def rebuild_parameter(tensor: Any, *_: Any) -> Any:
            return tensor

        self._admitted: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
            **{("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise _RefusedError(f"it asks for {module}.{name}, which no state dict needs")
        return self._admitted[module, name]

    def persistent_load(self, pid: Any) -> StorageRef:
        match pid:
            case ("storage", str(dtype), str(key), str(), int(size), *view) if (
                dtype in STORAGE_DTYPES.values() and size >= 0 and view in ([], [None])
            ):
                ref = StorageRef(dtype, key, size)
            case _:
                raise _RefusedError(f"it has a persistent object that is no storage: {pid!r}")
        if self.storages.setdefault(key, ref) != ref:
            raise _RefusedError(f"it gives storage {key!r} two sizes or types")
        return ref


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorRef:
    """The view, once it is known to lie inside its storage."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, StorageRef) or not all(type(n) is int and n >= 0 for n in sizes):
        raise _RefusedError("it has a tensor that is not made of a storage and sizes")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if prod(shape) > storage.size or (prod(shape) and last >= storage.size):
        raise _RefusedError(f"it has a tensor of shape {shape} outside its {storage.size} elements")
    return TensorRef(storage, offset, tuple(shape), tuple(strides))


def _array(buffer: bytes, storage: StorageRef) -> np.ndarray:
    """The storage's elements, once there are as many bytes as it says."""
    dtype = np.dtype(storage.dtype)
    if len(buffer) != storage.size * dtype.itemsize:
        raise EOFError(f"storage {storage.key!r} has {len(buffer)} bytes of {storage.size} {dtype}")
    return np.frombuffer(buffer, dtype)


def _read_legacy(file: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
    """Pickles of magic, protocol, system, object and storage keys; then the storages."""
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise _RefusedError("it does not begin with PyTorch's magic number")
    _Unpickler(file).load()
    system = _Unpickler(file).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _RefusedError("it was not written on a little-endian machine")
    unpickler = _Unpickler(file)
    state = unpickler.load()
    buffers = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        (size,) = struct.unpack("<q", file.read(8))
        if size != storage.size:
            raise EOFError(f"storage {key!r} has {size} elements, not {storage.size}")
        buffers[key] = _array(file.read(size * np.dtype(storage.dtype).itemsize), storage)
    if buffers.keys() != unpickler.storages.keys():
        raise EOFError("some of its storages are missing")
    return state, buffers


def _read_zip(file: IO[bytes]) -> tuple[Any, dict[str, np.ndarray]]:
    """`NAME/data.pkl` is the object, `NAME/data/KEY` a storage; nothing is compressed."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _RefusedError("its entries are compressed, which PyTorch never does")
        (pickled,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        root = pickled.removesuffix("data.pkl")
        if (
            f"{root}byteorder" in archive.namelist()
            and archive.read(f"{root}byteorder") != b"little"
        ):
            raise _RefusedError("it was not written on a little-endian machine")
        with archive.open(pickled) as data:
            unpickler = _Unpickler(data)
            state = unpickler.load()
        return state, {
            key: _array(archive.read(f"{root}data/{key}"), storage)
            for key, storage in unpickler.storages.items()
        }


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dict by name, as NumPy arrays of their own.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or damaged, holds anything but tensors, or names a
            function or class that a state dict has no need of (the message says which).
    """
    with open(path, "rb") as file:
        is_zip = file.read(4) == ZIP_MAGIC
        file.seek(0)
        try:
            state, buffers = _read_zip(file) if is_zip else _read_legacy(file)
        except _RefusedError as error:
            raise ValueError(f"{path} is refused: {error}") from error
        except Exception as error:  # what damaged bytes make pickle and zipfile raise is open-ended
            raise ValueError(f"{path} is truncated or damaged: {error}; fetch it again") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, TensorRef):
            raise ValueError(f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor")
    return {name: _view(ref, buffers[ref.storage.key]) for name, ref in state.items()}


def _view(ref: TensorRef, buffer: np.ndarray) -> np.ndarray:
    """A copy of the view; `_tensor` has checked its bounds."""
    steps = tuple(step * buffer.itemsize for step in ref.strides)
    return np.lib.stride_tricks.as_strided(buffer[ref.offset :], ref.shape, steps).copy()

"""Files written byte by byte as PyTorch writes them, and files that mean harm."""

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from experiments.weights.torch_pickle import LEGACY_MAGIC, STORAGE_DTYPES, read_state_dict


class Tensor:
    """Pickles as a PyTorch tensor: a view of a flat array."""

    def __init__(self, flat, shape=None, strides=(1,), offset=0, parameter=False):
        self.flat = flat
        self.view = (offset, (flat.size,) if shape is None else shape, strides)
        self.parameter = parameter


@pytest.fixture
def torch(monkeypatch):
    """A package in which pickle finds the names that it writes for PyTorch's."""
    package, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGE_DTYPES:
        setattr(package, name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda *_: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    package._utils = utils
    monkeypatch.setitem(sys.modules, "torch", package)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return package


class Storage:
    """What the pickle refers to by key."""

    def __init__(self, flat):
        self.flat = flat


def pickled(torch, value):
    """The pickle of `value` and the arrays that it refers to, by key."""
    storages = {}
    names = {np.dtype(dtype): name for name, dtype in STORAGE_DTYPES.items()}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            key = str(id(obj.flat))
            storages[key] = obj.flat
            kind = getattr(torch, names[obj.flat.dtype])
            return ("storage", kind, key, "cpu", obj.flat.size)

        def reducer_override(self, obj):
            if not isinstance(obj, Tensor):
                return NotImplemented
            args = (Storage(obj.flat), *obj.view, False, OrderedDict())
            if not obj.parameter:
                return torch._utils._rebuild_tensor_v2, args
            return torch._utils._rebuild_parameter, (Tensor(obj.flat, *obj.view[1:]), True, None)

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue(), storages


def write_legacy(path, content, storages, little_endian=True):
    system = {"protocol_version": 1001, "little_endian": little_endian}
    parts = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, 1001, system)]
    parts += [content, pickle.dumps(list(storages), 2)]
    for flat in storages.values():
        parts += [struct.pack("<q", flat.size), flat.tobytes()]
    path.write_bytes(b"".join(parts))


def write_zip(path, content, storages, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", byteorder)
        for key, flat in storages.items():
            archive.writestr(f"archive/data/{key}", flat.tobytes())


both_layouts = pytest.mark.parametrize("write", [write_legacy, write_zip])


@both_layouts
def test_tensors_of_every_type_and_view_are_read(torch, tmp_path, write):
    shared = np.arange(24, dtype=np.float32)
    state = OrderedDict(
        transposed=Tensor(shared, (3, 4), (1, 3), 2),
        scalar=Tensor(shared, (), (), 7),
        empty=Tensor(shared, (0, 3), (3, 1)),
        parameter=Tensor(shared, (24,), (1,), parameter=True),
        **{dtype: Tensor(np.arange(5).astype(dtype)) for dtype in STORAGE_DTYPES.values()},
    )
    path = tmp_path / "state.pth"
    write(path, *pickled(torch, state))
    read = read_state_dict(path)
    assert list(read) == list(state)
    np.testing.assert_array_equal(read["transposed"], shared[2:14].reshape(4, 3).T)
    np.testing.assert_array_equal(read["scalar"], shared[7])
    np.testing.assert_array_equal(read["parameter"], shared)
    assert read["empty"].shape == (0, 3)
    for dtype in STORAGE_DTYPES.values():
        np.testing.assert_array_equal(read[dtype], np.arange(5).astype(dtype))
        assert read[dtype].dtype == np.dtype(dtype)
    assert read["bfloat16"].dtype == ml_dtypes.bfloat16
    read["parameter"][0] = 99  # a copy: the tensors that shared its storage keep theirs
    assert read["scalar"] == shared[7]


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@both_layouts
def test_a_pickle_that_calls_a_function_is_refused_by_name(torch, tmp_path, write):
    trace = tmp_path / "harmed"
    pickle.loads(pickle.dumps(Harm(trace)))
    assert trace.exists()  # the pickle does what it says
    trace.unlink()

    path = tmp_path / "harm.pth"
    state = OrderedDict(weight=Tensor(np.ones(3, np.float32)), other=Harm(trace))
    write(path, *pickled(torch, state))
    with pytest.raises(ValueError, match=rf"harm.pth is refused.*{os.system.__module__}\.system"):
        read_state_dict(path)
    assert not trace.exists()


def test_harm_in_place_of_the_magic_number_is_refused(tmp_path):
    path, trace = tmp_path / "harm.pth", tmp_path / "harmed"
    path.write_bytes(pickle.dumps(Harm(trace)))
    with pytest.raises(ValueError, match=r"is refused.*\.system"):
        read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections.OrderedDict", "fromkeys"),
    ],
)
def test_only_whole_listed_names_are_admitted(tmp_path, module, name):
    text = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    path = tmp_path / "harm.pth"
    write_legacy(path, b"\x80\x04" + text + b"\x93.", {})  # STACK_GLOBAL
    with pytest.raises(ValueError, match=f"it asks for {module}.{name}, which no state dict needs"):
        read_state_dict(path)


@both_layouts
def test_every_truncation_is_called_one(torch, tmp_path, write):
    path = tmp_path / "state.pth"
    write(path, *pickled(torch, OrderedDict(weight=Tensor(np.ones(30, np.float32)))))
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"state.pth is truncated or damaged"):
            read_state_dict(path)


@both_layouts
def test_a_tensor_without_its_storage_is_damage(torch, tmp_path, write):
    content, _ = pickled(torch, OrderedDict(weight=Tensor(np.ones(3, np.float32))))
    write(tmp_path / "state.pth", content, {})
    with pytest.raises(ValueError, match=r"state.pth is truncated or damaged"):
        read_state_dict(tmp_path / "state.pth")


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((4,), (1,), 0), ((2,), (1,), 2), ((2, 2), (2, 1), 0), ((3, 3), (0, 1), 0), ((-1,), (1,), 0)],
)
def test_a_view_outside_its_storage_is_refused(torch, tmp_path, shape, strides, offset):
    path = tmp_path / "state.pth"
    state = OrderedDict(weight=Tensor(np.ones(3, np.float32), shape, strides, offset))
    write_zip(path, *pickled(torch, state))
    with pytest.raises(ValueError, match="is refused: it has a tensor"):
        read_state_dict(path)


def test_what_is_no_state_dict_is_said(torch, tmp_path):
    path = tmp_path / "state.pth"
    write_zip(path, *pickled(torch, OrderedDict(epoch=3)))
    with pytest.raises(ValueError, match="entry 'epoch' is a int, not a tensor"):
        read_state_dict(path)
    write_zip(path, *pickled(torch, [Tensor(np.ones(3, np.float32))]))
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        read_state_dict(path)
    write_legacy(path, *pickled(torch, {}), little_endian=False)
    with pytest.raises(ValueError, match="little-endian"):
        read_state_dict(path)
    write_zip(path, *pickled(torch, {}), byteorder=b"big")
    with pytest.raises(ValueError, match="little-endian"):
        read_state_dict(path)
    write_zip(path, *pickled(torch, {}), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(7))
    with pytest.raises(ValueError, match="magic number"):
        read_state_dict(path)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "absent.pth")

"""The portable artefact: StableHLO by `jax.export`, for CPU, CUDA and TPU; parameters beside it.

files = stablehlo.write(program)        the files of a folder, by name
logits = load(folder)(x)                wherever there is jax and numpy
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slim.export.program import Program

PLATFORMS = ("cpu", "cuda", "tpu")
ALIGNMENT = 64
"""Bytes; what XLA's CPU code wants of arrays that it does not copy."""

MODULE, METADATA = "program.jax_export", "metadata.json"


def write(program: Program, *, metadata: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files of an artefact, by name.

    Raises:
        ValueError: a parameter is not finite.
    """
    values = sorted(program.constants)
    for value in values:
        name, data = program.names.get(value), program.constants[value]
        if name is not None and data.dtype.kind == "f" and not np.isfinite(data).all():
            raise ValueError(f"{name} has numbers that are not finite; train it again, or mend it")

    def fn(constants: list[jax.Array], *inputs: jax.Array) -> tuple[jax.Array, ...]:
        given: Any = dict(zip(values, constants, strict=True))
        return replace(program, constants=given)(*inputs)

    leaves = [
        jax.ShapeDtypeStruct(program.constants[v].shape, program.constants[v].dtype) for v in values
    ]
    inputs = [program.types[value] for _, value in program.inputs]
    exported = jax.export.export(jax.jit(fn), platforms=PLATFORMS)(leaves, *inputs)
    files = {MODULE: bytes(exported.serialize())}
    for place, value in enumerate(values):
        buffer = io.BytesIO()
        np.save(buffer, program.constants[value], allow_pickle=False)
        files[f"{place}.npy"] = buffer.getvalue()
    described = {
        "parameters": [program.names.get(value, "") for value in values],
        "inputs": [name for name, _ in program.inputs],
        "outputs": [name for name, _ in program.outputs],
        "metadata": dict(metadata or {}),
    }
    files[METADATA] = json.dumps(described, indent=1, sort_keys=True).encode()
    return files


def load(folder: Path) -> Callable[..., tuple[jax.Array, ...]]:
    """The artefact's function of the inputs; see `parameters`."""
    exported = jax.export.deserialize(bytearray((folder / MODULE).read_bytes()))
    leaves = parameters(folder)
    run = jax.jit(exported.call)
    return lambda *inputs: tuple(run(leaves, *inputs))


def parameters(folder: Path) -> list[jax.Array]:
    """The artefact's parameters, loaded one after the other.

    In memory of their own: on a mapped file's small pages XLA's CPU code takes twice as long.
    """
    described = json.loads((folder / METADATA).read_text())
    return [
        jax.device_put(_read(folder / f"{place}.npy"))
        for place in range(len(described["parameters"]))
    ]


def _read(file: Path) -> np.ndarray:
    """The array of a .npy file, where JAX's CPU takes it as it lies: nothing is there twice."""
    with file.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        size = int(np.prod(shape)) * dtype.itemsize
        room = np.empty(size + ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        stream.readinto(room.data[start : start + size])
    found = room[start : start + size].view(dtype)
    return found.reshape(shape[::-1]).T if fortran else found.reshape(shape)

"""What a teacher says of the training split, computed once and kept on disk.

DIRECTORY/KEY/0.npy ...       one array for each value, a row for each example
DIRECTORY/KEY.seal            their sizes and checksums, written last

The key is a hash of the teacher's variables and cuts, the examples, and what is asked. Values
of taps are kept as float16, clipped to its range (masked scores are the least float32); logits
as they are.
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import seal
from experiments.data import buckets
from experiments.data.dataset import Batch, Dataset
from experiments.network import prepare
from experiments.stages.distillation.objective import TAUGHT, Teach
from experiments.stages.distillation.teacher import Teacher
from experiments.stages.distillation.terms import LOGITS
from slim import paths

LOG = logging.getLogger("slim")

_HALF = np.finfo(np.float16)


@dataclass(frozen=True)
class Value:
    """How one of the teacher's values is kept.

    Attributes:
        name: its tap, or `LOGITS`.
        shape: of one example, at the full length.
        dtype: of the file.
        lengths: the axes of `shape` that are as long as the text is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    lengths: tuple[int, ...]

    def part(self, length: int) -> tuple[slice, ...]:
        """Of the rows, what a text of that length has."""
        axes = (slice(length if i in self.lengths else None) for i in range(len(self.shape)))
        return (slice(None), *axes)


@dataclass(frozen=True)
class Cache:
    """A teacher's values, by example.

    Attributes:
        arrays: by name, memory-mapped (examples, ...).
        values: what they are.
    """

    arrays: Mapping[str, np.ndarray]
    values: Sequence[Value]

    def extend(self, batch: Batch) -> Batch:
        """The batch with the values of its examples."""
        rows, length = batch["index"], batch["input"].shape[1]
        taught = {v.name: self.arrays[v.name][rows][v.part(length)] for v in self.values}
        return {**batch, TAUGHT: taught}  # type: ignore[dict-item]


def describe(teach: Teach, teacher: Teacher, dataset: Dataset) -> tuple[Value, ...]:
    """How a teacher's values would be kept; found without computing any."""
    full = dataset.info.input_shape[0]
    lengths = (full, full - 1) if len(dataset.info.input_shape) == 1 else (full,)

    def shapes(length: int) -> dict[str, Any]:
        sample = teacher.network.sample()[:, :length]
        found = jax.eval_shape(teach, teacher.variables, sample)
        return {name: found[name] for name in found}

    whole, shorter = shapes(lengths[0]), shapes(lengths[-1])
    return tuple(
        Value(
            name,
            leaf.shape[1:],
            np.dtype(np.float32 if name == LOGITS else np.float16),
            tuple(i for i, n in enumerate(leaf.shape[1:]) if shorter[name].shape[i + 1] != n),
        )
        for name, leaf in whole.items()
    )


def size_bytes(values: Sequence[Value], dataset: Dataset) -> int:
    """What they take on disk."""
    per_example = sum(math.prod(v.shape) * v.dtype.itemsize for v in values)
    return per_example * len(dataset.train)


def load(
    directory: Path, teach: Teach, teacher: Teacher, dataset: Dataset, values: Sequence[Value]
) -> Cache:
    """The cache, computed if it is not there, or if it is damaged.

    Raises:
        OSError: it could not be written; nothing half-written is left under its name.
    """
    folder = directory / _key(teacher, dataset, values)
    damage = seal.damage(folder) if folder.exists() else "it is not there"
    if damage:
        if folder.exists():
            LOG.error("the teacher's values in %s are damaged (%s): made anew", folder, damage)
        _write(folder, teach, teacher, dataset, values)
    else:
        LOG.info("the teacher's values are those in %s", folder)
    arrays = {v.name: np.load(folder / f"{i}.npy", mmap_mode="r") for i, v in enumerate(values)}
    return Cache(arrays, values)


def _key(teacher: Teacher, dataset: Dataset, values: Sequence[Value]) -> str:
    said = [[v.name, v.shape, str(v.dtype)] for v in values]
    plans = [plan.to_json() for plan in teacher.network.plans]
    digest = hashlib.sha256(json.dumps([said, plans, dataset.fingerprint]).encode())
    digest.update(repr(teacher.network.module).encode())
    for path, leaf in sorted(paths.flatten(teacher.variables).items()):
        digest.update(f"{path}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _write(
    folder: Path, teach: Teach, teacher: Teacher, dataset: Dataset, values: Sequence[Value]
) -> None:
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        _fill(partial, teach, teacher, dataset, values)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        seal.write(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(
    folder: Path, teach: Teach, teacher: Teacher, dataset: Dataset, values: Sequence[Value]
) -> None:
    """Batches of one length one after the other, so that short texts take less time."""
    total, rows = len(dataset.train), dataset.eval_batch_size
    arrays = [
        np.lib.format.open_memmap(
            folder / f"{i}.npy", mode="w+", dtype=value.dtype, shape=(total, *value.shape)
        )
        for i, value in enumerate(values)
    ]
    full = dataset.info.input_shape[0]
    lengths = np.full(total, full)
    if dataset.buckets:
        lengths = buckets.padded_lengths(dataset.train, (*dataset.buckets, full))
    order = np.argsort(lengths, kind="stable")
    run = jax.jit(lambda variables, inputs: teach(variables, prepare(inputs)))
    LOG.info("the teacher looks at %d examples, into %s", total, folder.parent)
    for start in range(0, total, rows):
        chosen = order[start : start + rows]
        length = int(lengths[chosen].max())
        # The last batch is filled up, so that it needs no program of its own.
        filled = np.resize(chosen, rows)
        inputs = dataset.train.gather(filled)[0][:, :length]
        found = jax.device_get(run(teacher.variables, inputs))
        for array, value in zip(arrays, values, strict=True):
            said = found[value.name][: len(chosen)]
            if value.dtype == np.float16:
                said = np.clip(said.astype(np.float32), _HALF.min, _HALF.max)
            kept = np.zeros((len(chosen), *value.shape), value.dtype)
            kept[value.part(length)] = said
            array[chosen] = kept
    for array in arrays:
        array.flush()

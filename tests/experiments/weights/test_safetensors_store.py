import os

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import save_file

from experiments.weights import safetensors_store as store

METADATA = {"seed": 3, "accuracy": 0.915, "command": "python -m x --y='é'", "stages": ["train"]}


def variables():
    mesh = jax.make_mesh((8,), ("data",))
    return {
        "params": {
            "conv": {
                "kernel": jax.random.normal(jax.random.key(0), (3, 3, 2, 4)),
                "bias": np.arange(4.0, dtype=np.float32)[::-1],
            },
            "head": {"kernel": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)},
        },
        "batch_stats": {
            "mean": jax.device_put(jnp.arange(16.0), NamedSharding(mesh, PartitionSpec("data"))),
            "count": np.int32(5),
            "mask": np.array([True, False]),
        },
    }


def test_variables_and_metadata_come_back_as_they_were(tmp_path):
    path = tmp_path / "baseline.safetensors"
    store.save(path, variables(), METADATA)
    read, metadata = store.load(path)
    assert metadata == METADATA
    chex.assert_trees_all_equal(read, jax.device_get(variables()))
    chex.assert_trees_all_equal_shapes_and_dtypes(read, jax.device_get(variables()))


def test_the_same_content_makes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        store.save(tmp_path / name, variables(), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "baseline.safetensors"
    store.save(path, variables(), METADATA)
    before = path.read_bytes()

    def full_disk(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.save(path, {"params": {"w": np.ones(3)}}, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_every_truncation_is_called_one(tmp_path):
    path = tmp_path / "baseline.safetensors"
    store.save(path, variables(), METADATA)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"baseline.safetensors is truncated or damaged"):
            store.load(path)


def test_what_cannot_be_stored_or_was_not_is_said(tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(ValueError, match=r"\('params', 'a/b'\) cannot be stored"):
        store.save(path, {"params": {"a/b": np.ones(1)}}, {})
    with pytest.raises(ValueError, match=r"\('params', 'empty'\) cannot be stored"):
        store.save(path, {"params": {"empty": {}, "w": np.ones(1)}}, {})
    with pytest.raises(TypeError):
        store.save(path, {"params": {"w": np.ones(1)}}, {"when": object()})
    assert not path.exists()
    save_file({"w": np.ones(1)}, path)
    with pytest.raises(ValueError, match="'slim' in its header"):
        store.load(path)
    with pytest.raises(FileNotFoundError):
        store.load(tmp_path / "absent")

"""Flax variables as one safetensors file: no code in it, readable everywhere.

Tensors are named by their paths, `params/stem_conv/kernel`; the metadata is JSON in the header.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

METADATA_KEY = "slim"  # one key, because safetensors writes several in no fixed order


def save(path: str | Path, variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write nested dicts of arrays, and metadata of JSON values, to `path`.

    The file appears whole or not at all, and the same content always makes the same bytes.

    Raises:
        ValueError: a name contains `/`, or a subtree is empty and would be lost.
        TypeError: the metadata is not JSON.
    """
    path = Path(path)
    tree = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    tensors = {}
    for names, leaf in tree.items():
        if any("/" in name for name in names) or leaf is traverse_util.empty_node:
            raise ValueError(f"{names} cannot be stored: a name with '/' in it, or an empty dict")
        tensors["/".join(names)] = np.array(jax.device_get(leaf), order="C")
    text = json.dumps(dict(metadata), sort_keys=True)
    content = serialize(tensors, {METADATA_KEY: text})
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables, as nested dicts of NumPy arrays, and the metadata that `save` was given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, damaged, or was not written by `save`.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header, names = file.metadata() or {}, list(file.keys())
        tensors = {}
        for name in names:  # opened anew for each, since what was read stays in memory till then
            with safe_open(path, framework="numpy") as file:
                tensors[name] = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    if METADATA_KEY not in header:
        raise ValueError(f"{path} has no {METADATA_KEY!r} in its header: `save` did not write it")
    return traverse_util.unflatten_dict(tensors, sep="/"), json.loads(header[METADATA_KEY])


def is_ours(path: str | Path) -> bool:
    """Whether `save` wrote a file; of what is no safetensors file it is not said to be another's.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if Path(path).is_dir():
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            return METADATA_KEY in (file.metadata() or {})
    except SafetensorError:
        return True  # damaged: `load` says how

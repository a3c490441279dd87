"""BERTs as Hugging Face names their tensors: from files to our variables, and back.

A checkpoint is a safetensors file, or the folder with its `model.safetensors`. Whether of an
encoder alone or with heads (`cls.predictions.*`, `pooler`, `classifier`), and under new or old
spellings, it is read alike.
"""

import os
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialize

from slim.models.bert import Bert

FILE = "model.safetensors"
"""Of a checkpoint that is a folder."""

OUTER = {
    "embeddings/token": "embeddings.word_embeddings.weight",
    "embeddings/position": "embeddings.position_embeddings.weight",
    "embeddings/type": "embeddings.token_type_embeddings.weight",
    "embeddings/norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
    "classifier": "classifier",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "decoder_bias": "cls.predictions.bias",
}
LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp1": "intermediate.dense",
    "mlp2": "output.dense",
    "norm2": "output.LayerNorm",
}
LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def hugging_face_name(path: tuple[str, ...]) -> str:
    """Hugging Face's name of one of our variables, without the encoder's prefix `bert.`.

    >>> hugging_face_name(("params", "layer_0", "attention", "query", "kernel"))
    'encoder.layer.0.attention.self.query.weight'
    >>> hugging_face_name(("params", "embeddings", "token"))
    'embeddings.word_embeddings.weight'
    """
    _, *modules = path
    whole = "/".join(modules)
    if whole in OUTER:
        return OUTER[whole]
    *modules, leaf = modules
    if modules[0].startswith("layer_"):
        index, layer = modules[0].removeprefix("layer_"), LAYER["/".join(modules[1:])]
        return f"encoder.layer.{index}.{layer}.{LEAF[leaf]}"
    return f"{OUTER['/'.join(modules)]}.{LEAF[leaf]}"


def convert(
    tensors: Mapping[str, np.ndarray], model: Bert, fresh: Collection[str] = ()
) -> dict[str, Any]:
    """Hugging Face's tensors of a BERT as the variables of `model`.

    Kernels go from (out, in) to (in, out), those of queries, keys and values on to (in, heads,
    head_width). Tensors of heads that `model` has not are left out.

    Args:
        tensors: by name.
        model: whose variables they are.
        fresh: modules of it, such as `classifier`, that are left out where the tensors lack them.

    Raises:
        ValueError: a tensor is missing, of the wrong shape, or of an encoder that `model` is not.
    """
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda key, ids, mask: model.init(key, ids, mask, train=False), jax.random.key(0), ids, ids
    )
    remaining = {_plain(name): tensor for name, tensor in tensors.items()}
    variables = {}
    for path, expected in traverse_util.flatten_dict(shapes).items():
        name = hugging_face_name(path)
        if name not in remaining and path[1] in fresh:
            continue
        if name not in remaining:
            raise ValueError(f"tensor {name!r}, wanted for {'/'.join(path)}, is missing")
        tensor = remaining.pop(name)
        value = tensor.T if path[-1] == "kernel" else tensor
        # One dimension for all heads.
        merged = (*expected.shape[: value.ndim - 1], prod(expected.shape[value.ndim - 1 :]))
        if value.shape != merged:
            raise ValueError(
                f"tensor {name!r} has shape {tensor.shape}, which does not become "
                f"{expected.shape} of {'/'.join(path)}"
            )
        variables[path] = np.ascontiguousarray(value.reshape(expected.shape), expected.dtype)
    remaining.pop("embeddings.position_ids", None)  # 0, 1, 2 ...
    spare = sorted(name for name in remaining if name.startswith(("embeddings.", "encoder.")))
    if spare:
        raise ValueError(f"tensors that have no place in the model: {', '.join(spare)}")
    return traverse_util.unflatten_dict(variables)


def tensors_of(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What `convert` takes, of what it gives; the encoder is in `bert.`, as beside a head."""
    tensors = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        value, name = np.asarray(leaf), hugging_face_name(path)
        if path[-1] == "kernel":
            value = value.reshape(value.shape[0], -1).T
        elif path[-1] == "bias":
            value = value.reshape(-1)
        prefix = "bert." if name.startswith(("embeddings.", "encoder.", "pooler.")) else ""
        tensors[prefix + name] = np.ascontiguousarray(value)
    return tensors


def file_of(checkpoint: str | Path) -> Path:
    """The file of a checkpoint that is one, or a folder.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a safetensors file, or its folder")
    return path


def read(checkpoint: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated or damaged.
    """
    path = file_of(checkpoint)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error


def write(path: str | Path, variables: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Writes the variables of a BERT as a checkpoint that others can read, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(serialize(tensors_of(variables), {"format": "np", **metadata}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _plain(name: str) -> str:
    """A tensor's name without the encoder's prefix, its ending as it is spelt today."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )

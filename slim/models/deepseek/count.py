"""What a DeepSeek decoder costs, from shapes alone: nothing is allocated or compiled.

FLOPs are of matrix products, two a multiply-add, as the papers count them; embeddings are looked
up, norms and softmax left out.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.models.deepseek.config import DeepSeekConfig
from slim.models.deepseek.model import DeepSeek
from slim.moe.experts import Experts
from slim.paths import flatten

PyTree = Any


class Count(NamedTuple):
    """Parameters, of the collections `params` and `router` together.

    Attributes:
        total: of the main model, without what predicts ahead.
        active: those a token meets, embedding and head included.
        biases: the part of the total that are the routers' biases.
        embedding: those of the input embedding; the head has as many.
        ahead: of the modules that predict ahead, which share embedding and head.
    """

    total: int
    active: int
    biases: int
    embedding: int
    ahead: int


def shapes(config: DeepSeekConfig) -> PyTree:
    """The decoder's variables as `jax.ShapeDtypeStruct`s, of `params` and `router`."""

    def same(
        experts: Experts, x: jax.Array, chosen: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return x, jnp.int32(0)

    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    model = DeepSeek(config, same)
    return jax.eval_shape(
        lambda key, ids: model.init(key, ids, train=False), jax.random.key(0), ids
    )


def parameters(config: DeepSeekConfig) -> Count:
    """How many parameters there are, and how many of them a token meets.

    >>> from slim.models.deepseek import deepseek_config
    >>> parameters(deepseek_config("v3")).active
    37552297472
    """
    sizes = {path: prod(leaf.shape) for path, leaf in flatten(shapes(config)).items()}
    sizes = {path: size for path, size in sizes.items() if not path.endswith("/assignment")}

    def total(pattern: str) -> int:
        return sum(size for path, size in sizes.items() if fnmatchcase(path, pattern))

    ahead = total("*/ahead_*")
    routed = total("params/sparse/mlp/experts/*")
    idle = routed // config.distinct * (config.distinct - config.active) if routed else 0
    return Count(
        total=total("*") - ahead,
        active=total("*") - ahead - idle,
        biases=total("router/sparse/*"),
        embedding=total("params/embedding"),
        ahead=ahead,
    )


def flops(config: DeepSeekConfig, context: float) -> float:
    """Of one token that attends to `context` tokens, in the whole form: forward, without MTP.

    Training takes three times as many, and its tokens see half of their text in the mean: V3's 250
    GFLOPs a token at length 4096 (arXiv:2505.09343, table 2) are `3 * flops(v3, 2048)`.
    """
    return flops_of(shapes(config)["params"], config.active, context)


def flops_of(params: PyTree, active: int, context: float) -> float:
    """What `flops` counts, of a decoder whose matrices may be narrower than any config says.

    Args:
        params: arrays or their shapes.
        active: experts that a token goes to.
        context: tokens that one attends to.
    """
    leaves = {f"/{path}": leaf for path, leaf in flatten(params).items()}
    columns = sum(
        prod(leaf.shape) // leaf.shape[-2]
        for path, leaf in leaves.items()
        if path.endswith(_ATTENDED) and not path.startswith("/ahead_")
    )
    return 2 * (_multiplied(leaves, active) + columns * context)


_ATTENDED = tuple(f"/attention/{name}" for name in ("query_up", "query_rotary", "value_up"))
"""The matrices that make what meets each earlier token: of all heads, side by side."""


def decode_flops(config: DeepSeekConfig, context: float) -> float:
    """Of one token that is decoded with `context` tokens in the cache, in the absorbed form."""
    each = 2 * config.latent + config.rotary_width
    attended = config.depth * config.heads * each * context
    leaves = {f"/{path}": leaf for path, leaf in flatten(shapes(config)["params"]).items()}
    return 2 * (_multiplied(leaves, config.active) + attended)


def _multiplied(leaves: Mapping[str, Any], active: int) -> int:
    """The entries of all matrices that a token is multiplied by."""
    total = 0
    for path, leaf in leaves.items():
        if path == "/embedding" or path.endswith("/scale") or path.startswith("/ahead_"):
            continue
        experts = leaf.shape[-3] if "/experts/" in path else 1
        total += prod(leaf.shape) // experts * min(active, experts)
    return total


def cache_bytes(config: DeepSeekConfig, itemsize: int = 2) -> int:
    """The cache's bytes a token, all layers: V3's 70,272 in 16 bits (arXiv:2505.09343, table 1)."""
    return config.depth * (config.latent + config.rotary_width) * itemsize


def full_cache_bytes(config: DeepSeekConfig, itemsize: int = 2) -> int:
    """Of multi-head attention with as many heads: 2 n_h d_h a layer (V2's table 1)."""
    return config.depth * 2 * config.heads * config.head_width * itemsize


def training_bytes(config: DeepSeekConfig, moments: int = 2, moment_itemsize: int = 4) -> int:
    """Float32 parameters, their gradients and an optimizer's moments, with MTP, on all devices."""
    count = parameters(config)
    return (count.total + count.ahead) * (4 + 4 + moments * moment_itemsize)

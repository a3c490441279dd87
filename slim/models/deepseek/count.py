"""What a DeepSeek decoder costs, from shapes alone: nothing is allocated or compiled.

FLOPs are of matrix products, two a multiply-add, as the papers count them; embeddings are looked
up, norms and softmax left out.
"""

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

    def total(pattern: str) -> int:
        return sum(size for path, size in sizes.items() if fnmatchcase(path, pattern))

    ahead = total("*/ahead_*")
    routed = total("params/sparse/mlp/experts/*")
    idle = routed // config.experts * (config.experts - config.active) if routed else 0
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
    each = config.head_width + config.rotary_width + config.value_width
    return 2 * (_multiplied(config) + config.depth * config.heads * each * context)


def decode_flops(config: DeepSeekConfig, context: float) -> float:
    """Of one token that is decoded with `context` tokens in the cache, in the absorbed form."""
    each = 2 * config.latent + config.rotary_width
    return 2 * (_multiplied(config) + config.depth * config.heads * each * context)


def _multiplied(config: DeepSeekConfig) -> int:
    """The entries of all matrices that a token is multiplied by."""
    count = parameters(config)
    latents = config.latent + config.query_rank  # their norms' scales
    norms = config.depth * (2 * config.width + latents) + config.width
    return count.active - count.embedding - count.biases - norms


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

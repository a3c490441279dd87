"""DeepSeek's checkpoints as published, read into our stacked arrays.

A matrix `NAME.weight` is `(out, in)`; where there is a `NAME.weight_scale_inv`, it is float8 e4m3,
and each block of 128 x 128 is to be multiplied by its scale. Rotary components are in the order of
`slim.models.deepseek.rotary`. Tensors are read one by one, so that no more than the result and
about one shard is held at a time.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from experiments.weights.shards import dequantized, open_shard, shard_names
from slim.models.deepseek import DeepSeekConfig, Yarn
from slim.models.deepseek.count import shapes
from slim.paths import flatten, unflatten

SCALE = "_scale_inv"


class Place(NamedTuple):
    """Where some rows of a published tensor go.

    Attributes:
        path: of our variable.
        at: which layer and expert of it.
        part: of each head's rows, which; None for all rows.
    """

    path: str
    at: tuple[int, ...] = ()
    part: slice | None = None


def config_of(folder: str | Path) -> DeepSeekConfig:
    """The sizes that a checkpoint's `config.json` states, as DeepSeek or `transformers` wrote it.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: it is not of a DeepSeek decoder.
    """
    c = json.loads((Path(folder) / "config.json").read_text())
    yarn, method = c.get("rope_scaling"), c.get("topk_method", "noaux_tc")
    return DeepSeekConfig(
        vocabulary=c["vocab_size"],
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        dense_layers=min(c["first_k_dense_replace"], c["num_hidden_layers"]),
        heads=c["num_attention_heads"],
        query_rank=c["q_lora_rank"] or 0,
        latent=c["kv_lora_rank"],
        head_width=c["qk_nope_head_dim"],
        rotary_width=c["qk_rope_head_dim"],
        value_width=c["v_head_dim"],
        hidden=c["intermediate_size"],
        experts=c["n_routed_experts"],
        active=c["num_experts_per_tok"],
        shared=c["n_shared_experts"] or 0,
        expert_hidden=c["moe_intermediate_size"],
        router=c.get("scoring_func", "sigmoid" if method == "noaux_tc" else "softmax"),
        normalize=c["norm_topk_prob"],
        scale=c["routed_scaling_factor"],
        groups=1 if method == "greedy" else c["n_group"],
        groups_kept=1 if method == "greedy" else c["topk_group"],
        bias_rate=1e-3 if method == "noaux_tc" else 0.0,
        predict_ahead=c.get("num_nextn_predict_layers", 0),
        base=c["rope_theta"],
        yarn=None
        if yarn is None
        else Yarn(
            factor=yarn["factor"],
            positions=yarn["original_max_position_embeddings"],
            fast=yarn["beta_fast"],
            slow=yarn["beta_slow"],
            mscale=yarn["mscale"],
            mscale_all=yarn["mscale_all_dim"],
        ),
        epsilon=c["rms_norm_eps"],
    )


def places(config: DeepSeekConfig) -> dict[str, tuple[Place, ...]]:
    """Where the tensors of a checkpoint go, by their names; those not here are not needed.

    >>> from slim.models.deepseek import deepseek_config
    >>> places(deepseek_config("v3"))["model.layers.4.self_attn.kv_b_proj.weight"]
    ... # doctest: +NORMALIZE_WHITESPACE
    (Place(path='params/sparse/attention/key_up', at=(1,), part=slice(0, 128, None)),
     Place(path='params/sparse/attention/value_up', at=(1,), part=slice(128, 256, None)))
    """
    table: dict[str, tuple[Place, ...]] = {
        "model.embed_tokens.weight": (Place("params/embedding"),),
        "model.norm.weight": (Place("params/norm/scale"),),
        "lm_head.weight": (Place("params/head"),),
    }
    for number in range(config.depth + config.predict_ahead):
        ahead = number - config.depth
        at: tuple[int, ...] = ()
        if ahead >= 0:
            stack = f"ahead_{ahead}/layer"
        elif number < config.dense_layers:
            stack, at = "dense", (number,)
        else:
            stack, at = "sparse", (number - config.dense_layers,)
        sparse = config.sparse_layers > 0 and number >= config.dense_layers
        prefix = f"model.layers.{number}."
        for name, of_layer in _layer(config, stack, at, sparse):
            table[prefix + name] = of_layer
        if ahead >= 0:
            module = f"params/ahead_{ahead}"
            table[prefix + "enorm.weight"] = (Place(f"{module}/embedding_norm/scale"),)
            table[prefix + "hnorm.weight"] = (Place(f"{module}/state_norm/scale"),)
            table[prefix + "eh_proj.weight"] = (Place(f"{module}/project"),)
            table[prefix + "shared_head.norm.weight"] = (Place(f"{module}/norm/scale"),)
    return table


def _layer(
    config: DeepSeekConfig, stack: str, at: tuple[int, ...], sparse: bool
) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """The tensors of one layer, by their names in it."""
    plain = {
        "input_layernorm": "attention_norm/scale",
        "post_attention_layernorm": "mlp_norm/scale",
        "self_attn.kv_a_layernorm": "attention/latent_norm/scale",
        "self_attn.o_proj": "attention/out",
    }
    if config.query_rank:
        plain["self_attn.q_a_proj"] = "attention/query_down"
        plain["self_attn.q_a_layernorm"] = "attention/query_norm/scale"
    queries = "self_attn.q_b_proj" if config.query_rank else "self_attn.q_proj"
    halves = {
        queries: ("query_up", "query_rotary", config.head_width),
        "self_attn.kv_a_proj_with_mqa": ("latent_down", "rotary_key", config.latent),
        "self_attn.kv_b_proj": ("key_up", "value_up", config.head_width),
    }
    second = {
        queries: config.rotary_width,
        "self_attn.kv_a_proj_with_mqa": config.rotary_width,
        "self_attn.kv_b_proj": config.value_width,
    }
    perceptrons = {"mlp": "mlp"}
    if sparse:
        plain["mlp.gate"] = "mlp/router/kernel"
        perceptrons = {"mlp.shared_experts": "mlp/shared"} if config.shared else {}
        if config.bias_rate:
            place = Place(f"router/{stack}/mlp/bias", at)
            yield "mlp.gate.e_score_correction_bias", (place,)
        for expert in range(config.experts):
            for part in ("gate", "up", "down"):
                place = Place(f"params/{stack}/mlp/experts/{part}", (*at, expert))
                yield f"mlp.experts.{expert}.{part}_proj.weight", (place,)
    for theirs, ours in perceptrons.items():
        plain |= {f"{theirs}.{part}_proj": f"{ours}/{part}" for part in ("gate", "up", "down")}
    for theirs, ours in plain.items():
        yield f"{theirs}.weight", (Place(f"params/{stack}/{ours}", at),)
    for theirs, (first, then, width) in halves.items():
        whole = width + second[theirs]
        yield (
            f"{theirs}.weight",
            (
                Place(f"params/{stack}/attention/{first}", at, slice(0, width)),
                Place(f"params/{stack}/attention/{then}", at, slice(width, whole)),
            ),
        )


def read(
    folder: str | Path, config: DeepSeekConfig, dtype: DTypeLike = ml_dtypes.bfloat16
) -> dict[str, Any]:
    """The variables of `DeepSeek(config, ...)` with a checkpoint's weights, as NumPy arrays.

    Matrices are of `dtype`; routers, their biases and norms float32. What the checkpoint has for
    predicting further than `config.predict_ahead` is left out.

    Raises:
        FileNotFoundError: the folder or one of its shards is not there.
        ValueError: a tensor is missing, of the wrong shape, of no place in the model, or a shard
            is damaged.
    """
    folder = Path(folder)
    shard_of = shard_names(folder)
    table = places(config)
    if missing := sorted(table.keys() - shard_of.keys()):
        raise ValueError(f"{folder} lacks {len(missing)} tensors, such as {missing[0]!r}")
    if spare := sorted(n for n in shard_of.keys() - table.keys() if not _unused(n, config)):
        raise ValueError(f"{folder}: {len(spare)} tensors have no place, such as {spare[0]!r}")

    result: dict[str, np.ndarray] = {}
    for path, leaf in flatten(shapes(config)).items():
        exact = path.endswith(("/scale", "/bias", "/router/kernel"))
        result[path] = np.empty(leaf.shape, np.float32 if exact else dtype)

    shard = lru_cache(maxsize=2)(open_shard)  # a matrix and its scales may lie in two
    for name in sorted(table, key=lambda name: shard_of[name]):
        tensor = shard(folder / shard_of[name]).tensor(name)
        if name + SCALE in shard_of:
            scales = shard(folder / shard_of[name + SCALE]).tensor(name + SCALE)
            tensor = dequantized(tensor, scales, result[table[name][0].path].dtype)
        elif tensor.dtype.itemsize == 1:
            raise ValueError(f"{folder} has no {name + SCALE!r}, the scales of an 8-bit matrix")
        for place in table[name]:
            _write(name, tensor, place, result[place.path][place.at])
    return unflatten(result)


def _write(name: str, tensor: np.ndarray, place: Place, target: np.ndarray) -> None:
    """Copies some rows of a tensor to our array, `(in, out)`."""
    whole = tensor.shape
    if place.part is not None:
        heads = target.shape[-1] // (place.part.stop - place.part.start)
        if len(whole) == 2 and whole[0] % heads == 0:
            by_head = tensor.reshape(heads, -1, whole[1])[:, place.part]
            tensor = by_head.reshape(-1, whole[1])
    if tensor.ndim == 2 and place.path != "params/embedding":
        tensor = tensor.T
    if tensor.shape != target.shape:
        raise ValueError(
            f"tensor {name!r} has shape {whole}, which does not become {target.shape} of "
            f"{place.path}"
        )
    target[...] = tensor


def _unused(name: str, config: DeepSeekConfig) -> bool:
    """Whether a tensor says nothing new: a scale, a frequency, a copy of embedding or head."""
    if name.endswith((SCALE, "rotary_emb.inv_freq")):
        return True
    if not name.startswith("model.layers."):
        return False
    layer = int(name.split(".")[2])
    copies = ("embed_tokens.weight", "shared_head.head.weight")
    return layer >= config.depth + config.predict_ahead or (
        layer >= config.depth and name.endswith(copies)
    )

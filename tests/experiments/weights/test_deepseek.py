"""A small checkpoint written here as DeepSeek publishes its own, and read."""

import json
import re
import tracemalloc
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from experiments.weights.deepseek import SCALE, config_of, read
from slim.models.deepseek import DeepSeekConfig, Yarn
from slim.models.deepseek.count import shapes
from slim.paths import flatten

# Two blocks and a part of one in width and in the experts' rows.
SMALL = DeepSeekConfig(
    vocabulary=50,
    width=272,
    depth=3,
    dense_layers=1,
    heads=2,
    query_rank=24,
    latent=16,
    head_width=8,
    rotary_width=4,
    value_width=6,
    hidden=40,
    experts=4,
    active=2,
    shared=1,
    expert_hidden=144,
    groups=2,
    groups_kept=1,
    yarn=Yarn(mscale=0.7),
)
# What `config.json` of DeepSeek-V3 has, with these sizes.
CONFIG = {
    "vocab_size": 50,
    "hidden_size": 272,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "intermediate_size": 40,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 144,
    "moe_layer_freq": 1,
    "n_group": 2,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
}
EXACT = re.compile(r"norm|embed|head|eh_proj|mlp\.gate\.")
NAMES = {"float32": "F32", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}


def published_shapes(c):
    """Name and shape of every tensor, written out from the published model's modules."""
    found = {
        "model.embed_tokens.weight": (c.vocabulary, c.width),
        "model.norm.weight": (c.width,),
        "lm_head.weight": (c.vocabulary, c.width),
    }
    for n in range(c.depth + c.predict_ahead):
        at = f"model.layers.{n}."
        found |= {
            f"{at}input_layernorm.weight": (c.width,),
            f"{at}post_attention_layernorm.weight": (c.width,),
            f"{at}self_attn.q_a_proj.weight": (c.query_rank, c.width),
            f"{at}self_attn.q_a_layernorm.weight": (c.query_rank,),
            f"{at}self_attn.q_b_proj.weight": (2 * (8 + 4), c.query_rank),
            f"{at}self_attn.kv_a_proj_with_mqa.weight": (16 + 4, c.width),
            f"{at}self_attn.kv_a_layernorm.weight": (16,),
            f"{at}self_attn.kv_b_proj.weight": (2 * (8 + 6), 16),
            f"{at}self_attn.o_proj.weight": (c.width, 2 * 6),
        }
        widths = {"mlp.": c.hidden}
        if n >= c.dense_layers:
            widths = {f"mlp.experts.{e}.": c.expert_hidden for e in range(c.experts)}
            widths["mlp.shared_experts."] = c.expert_hidden
            found[f"{at}mlp.gate.weight"] = (c.experts, c.width)
            found[f"{at}mlp.gate.e_score_correction_bias"] = (c.experts,)
        for module, hidden in widths.items():
            found[f"{at}{module}gate_proj.weight"] = (hidden, c.width)
            found[f"{at}{module}up_proj.weight"] = (hidden, c.width)
            found[f"{at}{module}down_proj.weight"] = (c.width, hidden)
    at = f"model.layers.{c.depth}."
    return found | {
        f"{at}enorm.weight": (c.width,),
        f"{at}hnorm.weight": (c.width,),
        f"{at}eh_proj.weight": (c.width, 2 * c.width),
        f"{at}embed_tokens.weight": (c.vocabulary, c.width),
        f"{at}shared_head.norm.weight": (c.width,),
        f"{at}shared_head.head.weight": (c.vocabulary, c.width),
    }


def write_shard(path, tensors):
    header, parts, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        parts.append(np.ascontiguousarray(tensor).tobytes())
        span = [offset, offset + len(parts[-1])]
        dtype = NAMES[tensor.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def blocks_of(rng, shape):
    """A matrix in float8, its scales, and what they mean."""
    scales = rng.uniform(0.5, 2, [-(-n // 128) for n in shape]).astype(np.float32)
    codes = rng.integers(0, 127, shape, np.uint8) | rng.integers(0, 2, shape, np.uint8) << 7
    stored = codes.view(ml_dtypes.float8_e4m3fn)  # any but NaN
    rows, columns = (np.arange(n) // 128 for n in shape)
    return stored, scales, stored.astype(np.float32) * scales[rows][:, columns]


def publish(folder, config, each):
    """Writes a checkpoint, `each` tensors a shard; gives them as they are meant, in float32."""
    rng, written, meant = np.random.default_rng(0), {}, {}
    for name, shape in published_shapes(config).items():
        if EXACT.search(name):
            kind = np.float32 if name.endswith("bias") else ml_dtypes.bfloat16
            written[name] = rng.normal(size=shape).astype(kind)
            meant[name] = written[name].astype(np.float32)
        else:
            written[name], written[name + SCALE], meant[name] = blocks_of(rng, shape)
    names, weight_map = list(written), {}
    for i in range(0, len(names), each):
        chosen, file = names[i : i + each], f"model-{i // each + 1:05}.safetensors"
        write_shard(folder / file, {name: written[name] for name in chosen})
        weight_map |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    # A matrix here and there is in another shard than its scales.
    assert any(file != weight_map.get(name + SCALE, file) for name, file in weight_map.items())
    return meant


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    meant = publish(folder, SMALL, each=15)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder, meant


def test_sizes_are_read_from_the_published_config(checkpoint):
    assert config_of(checkpoint[0]) == replace(SMALL, init_std=0.006)


def test_every_tensor_lies_where_it_belongs(checkpoint):
    folder, meant = checkpoint
    variables = read(folder, SMALL, np.float32)
    found = flatten(variables)
    assert {p: a.shape for p, a in found.items()} == {
        p: leaf.shape for p, leaf in flatten(shapes(SMALL)).items()
    }
    sparse, layer = variables["params"]["sparse"], "model.layers.2."
    by_head = meant[layer + "self_attn.q_b_proj.weight"].reshape(2, 12, 24)
    np.testing.assert_array_equal(
        sparse["attention"]["query_up"][1], by_head[:, :8].reshape(16, 24).T
    )
    np.testing.assert_array_equal(
        sparse["attention"]["query_rotary"][1], by_head[:, 8:].reshape(8, 24).T
    )
    np.testing.assert_array_equal(
        sparse["attention"]["rotary_key"][1],
        meant[layer + "self_attn.kv_a_proj_with_mqa.weight"][16:].T,
    )
    np.testing.assert_array_equal(
        sparse["attention"]["value_up"][1],
        meant[layer + "self_attn.kv_b_proj.weight"].reshape(2, 14, 16)[:, 8:].reshape(12, 16).T,
    )
    for path, name in {
        "params/embedding": "model.embed_tokens.weight",
        "params/head": "lm_head.weight",
        "params/dense/mlp/down": "model.layers.0.mlp.down_proj.weight",
        "params/ahead_0/project": "model.layers.3.eh_proj.weight",
        "params/ahead_0/embedding_norm/scale": "model.layers.3.enorm.weight",
        "params/ahead_0/norm/scale": "model.layers.3.shared_head.norm.weight",
    }.items():
        value = found[path][0] if path.startswith("params/dense") else found[path]
        np.testing.assert_array_equal(value, meant[name] if "embedding" in path else meant[name].T)
    for expert in range(4):
        np.testing.assert_array_equal(
            sparse["mlp"]["experts"]["up"][1, expert],
            meant[f"{layer}mlp.experts.{expert}.up_proj.weight"].T,
        )
    np.testing.assert_array_equal(
        variables["router"]["sparse"]["mlp"]["bias"][0],
        meant["model.layers.1.mlp.gate.e_score_correction_bias"],
    )


def test_all_is_written_and_only_matrices_are_rounded(checkpoint, monkeypatch):
    folder, meant = checkpoint
    monkeypatch.setattr("numpy.empty", lambda shape, dtype=None: np.full(shape, np.nan, dtype))
    rounded = flatten(read(folder, SMALL))
    for path, value in rounded.items():
        assert np.isfinite(value.astype(np.float32)).all(), path
        exact = path.endswith(("scale", "bias", "router/kernel"))
        assert value.dtype == (np.float32 if exact else ml_dtypes.bfloat16), path
    expected = meant["model.layers.3.mlp.experts.0.gate_proj.weight"].astype(ml_dtypes.bfloat16)
    found = rounded["params/ahead_0/layer/mlp/experts/gate"][0]
    np.testing.assert_array_equal(found.astype(np.float32), expected.T.astype(np.float32))


def test_without_the_modules_that_predict_ahead_they_are_left_out(checkpoint):
    found = read(checkpoint[0], replace(SMALL, predict_ahead=0))
    assert not [name for name in found["params"] if name.startswith("ahead")]


def test_no_more_than_the_result_and_a_shard_is_held(tmp_path):
    config = replace(SMALL, width=512, expert_hidden=512, experts=8, groups=1, groups_kept=1)
    publish(tmp_path, config, each=25)
    files = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    assert sum(files) > 5 * max(files)
    tracemalloc.start()
    try:
        result = flatten(read(tmp_path, config))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(value.nbytes for value in result.values())
    assert size < peak < size + max(files)


@pytest.fixture
def copy(checkpoint, tmp_path):
    for file in checkpoint[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit_index(folder, change):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def test_what_does_not_fit_is_named(copy):
    with pytest.raises(ValueError, match=r"q_a_proj.weight' has shape \(24, 272\), which does not"):
        read(copy, replace(SMALL, query_rank=20))
    with pytest.raises(ValueError, match=r"lacks \d+ tensors, such as 'model.layers.1.mlp.experts"):
        read(copy, replace(SMALL, experts=8))
    with pytest.raises(ValueError, match=r"tensors have no place, such as 'model.layers.1.mlp.exp"):
        read(copy, replace(SMALL, experts=2, groups=1, groups_kept=1))
    scales = "model.layers.0.mlp.down_proj.weight" + SCALE
    edit_index(copy, lambda names: names.pop(scales))
    with pytest.raises(ValueError, match=f"has no '{scales}', the scales of an 8-bit matrix"):
        read(copy, SMALL)


def test_damage_is_named(copy, tmp_path_factory):
    shard = sorted(copy.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=rf"{shard.name} is truncated: .* ends beyond it"):
        read(copy, SMALL)
    shard.write_bytes(content[:100])
    with pytest.raises(ValueError, match=rf"{shard.name} is truncated or damaged"):
        read(copy, SMALL)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        read(copy, SMALL)
    with pytest.raises(FileNotFoundError, match="has neither"):
        read(tmp_path_factory.mktemp("empty"), SMALL)

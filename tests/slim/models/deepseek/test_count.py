"""Counts beside the published ones, and beside what the graph of a small decoder says."""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.graph.cost import cost
from slim.graph.trace import trace
from slim.measure.size import entries, stored_bytes
from slim.models.deepseek import DeepSeek, decode, deepseek_config, empty_cache
from slim.models.deepseek.count import (
    cache_bytes,
    decode_flops,
    flops,
    full_cache_bytes,
    parameters,
    shapes,
    training_bytes,
)
from slim.models.deepseek.sharding import ALIGNED, specs
from slim.paths import flatten

V3 = deepseek_config("v3")


@pytest.fixture(scope="module")
def v3():
    return shapes(V3)


def test_v3_has_as_many_parameters_as_published(v3):
    count = parameters(V3)
    assert count.total == 671_026_419_200
    assert count.total - count.biases == 671_026_404_352
    assert count.active == 37_552_297_472
    assert count.active - count.embedding == 36_625_618_432
    assert count.ahead == 11_610_068_224

    params, biases = v3["params"], v3["router"]["sparse"]
    assert entries(params["sparse"]["attention"]) == 58 * 187_107_328
    assert entries(params["sparse"]["mlp"]["experts"]) == 58 * 256 * 44_040_192
    assert entries(params["dense"]) == 3 * 583_483_392
    assert entries(params["sparse"]) + entries(biases) == 58 * 11_507_286_272
    assert params["embedding"].size == params["head"].size == 926_679_040


def test_v2_lite_has_as_many_parameters_as_published():
    count = parameters(deepseek_config("v2_lite"))
    assert (count.total, count.biases, count.ahead) == (15_706_484_224, 0, 0)
    assert count.active - count.embedding == 2_451_435_008  # "2.4B"


def test_training_v3_takes_250_gflops_a_token_and_its_cache_70_kilobytes():
    """Tables 1 and 2 of arXiv:2505.09343."""
    assert 3 * flops(V3, 2048) == pytest.approx(250e9, rel=2e-3)
    assert cache_bytes(V3) == 70_272
    assert full_cache_bytes(V3) / cache_bytes(V3) == pytest.approx(56.9, abs=0.05)
    assert training_bytes(V3) == (671_026_419_200 + 11_610_068_224) * 16


def test_flops_are_those_of_the_graphs_contractions():
    """Every token of the whole form attends to all of the text, and is then masked."""
    config = replace(deepseek_config("tiny").dense(), predict_ahead=0)
    model, length = DeepSeek(config), 6
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    whole = trace(lambda v, ids: model.apply(v, ids, train=False), shapes(config), ids)
    assert 2 * cost(whole).macs == length * flops(config, length)

    cache = jax.eval_shape(lambda: empty_cache(config, 1, length))
    one = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    step = trace(lambda v, ids, cache: decode(model, v, ids, cache, 3), shapes(config), one, cache)
    assert 2 * cost(step).macs == decode_flops(config, length)
    assert stored_bytes(cache) == length * cache_bytes(config, 4)


def test_a_dense_decoder_computes_as_much_as_a_sparse_one_but_for_its_routers():
    sparse = deepseek_config("tiny")
    routers = 2 * sparse.sparse_layers * sparse.width * sparse.experts
    assert flops(sparse, 64) == flops(sparse.dense(), 64) + routers


MESHES = [{"data": 2, "fsdp": 16, "expert": 32}, {"fsdp": 8, "expert": 8, "tensor": 8}]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_v3s_shards_are_aligned_and_no_device_has_much_more_than_its_part(v3, mesh):
    held, of = 0, flatten(specs(v3, mesh))
    assert specs(v3["params"], mesh) == specs(v3, mesh)["params"]
    for path, leaf in flatten(v3).items():
        assert len(of[path]) <= leaf.ndim, path
        taken = [(axes,) if isinstance(axes, str) else axes or () for axes in of[path]]
        assert len(set(sum(taken, ()))) == len(sum(taken, ())), path
        taken += [()] * (leaf.ndim - len(taken))
        parts = [prod(mesh[axis] for axis in axes) for axes in taken]
        shard = [size // part for size, part in zip(leaf.shape, parts, strict=True)]
        assert np.multiply(shard, parts).tolist() == list(leaf.shape), path
        for size, part in zip(shard[-2:], parts[-2:], strict=True):
            assert part == 1 or size % ALIGNED == 0, path
        held += prod(shard)
    devices = prod(mesh.values()) // mesh.get("data", 1)
    assert held * devices < 1.05 * (671_026_419_200 + 11_610_068_224)


def test_experts_that_do_not_divide_are_named(v3):
    with pytest.raises(ValueError, match=r"256 experts cannot be divided over expert = 24 devices"):
        specs(v3, {"expert": 24})
    with pytest.raises(ValueError, match="'other/kernel' has no place"):
        specs({"other": {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}}, {})

"""Meshes: every parameter has its place, and a wrong layout is refused by name."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from experiments import mesh as meshes
from experiments.mesh import MeshConfig, ShardingRule
from experiments.schema import ConfigError
from slim import models, paths
from tests.experiments import jobs

SIZES = {"conv/kernel": (3, 3, 8, 16), "conv/bias": (16,), "head/kernel": (6, 10)}


def rules(*pairs, **axes):
    made = tuple(ShardingRule(pattern=pattern, split=split) for pattern, split in pairs)
    return MeshConfig(rules=made, **axes)


def specs(config, devices=8, sizes=SIZES):
    return meshes.parameter_specs(config, sizes, meshes.shape(config, devices))


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({}, (8, 1, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1, 1)),
        ({"data": 2, "tensor": 2, "expert": 2}, (2, 1, 2, 2)),
    ],
)
def test_the_data_axis_takes_the_devices_that_are_left(axes, expected):
    assert meshes.shape(MeshConfig(**axes), 8) == expected
    grid = meshes.build(MeshConfig(**axes))
    assert tuple(grid.shape.items()) == tuple(zip(meshes.AXES, expected, strict=True))


@pytest.mark.parametrize("axes", [{"fsdp": 3}, {"data": 4}, {"fsdp": 16}])
def test_axes_that_do_not_make_the_devices_are_refused(axes):
    with pytest.raises(ConfigError, match="does not make 8, the number of devices"):
        meshes.shape(MeshConfig(**axes), 8)


def test_a_batch_that_devices_cannot_share_is_refused():
    meshes.check_batch(16, (2, 4, 1, 1), "data.batch_size")
    with pytest.raises(ConfigError, match=r"data\.batch_size = 20: .* the 8 devices .*; try 16"):
        meshes.check_batch(20, (2, 4, 1, 1), "data.batch_size")
    meshes.check_batch(4, (2, 1, 2, 2), "data.batch_size")
    with pytest.raises(ConfigError, match=r"2: .* the 4 devices .*data x fsdp x expert; try 4"):
        meshes.check_batch(2, (2, 1, 2, 2), "data.batch_size")


def test_the_largest_dimension_that_divides_is_split():
    assert specs(MeshConfig(fsdp=4)) == {
        "conv/kernel": P(None, None, None, "fsdp"),
        "conv/bias": P("fsdp"),
        "head/kernel": P(),  # neither 6 nor 10 is a multiple of 4
    }
    assert specs(MeshConfig(fsdp=2))["head/kernel"] == P(None, "fsdp")
    assert set(specs(MeshConfig()).values()) == {P()}


def test_the_first_rule_that_matches_decides():
    config = rules(
        ("head/*", ("tensor", "")), ("*/bias", "none"), ("*", "largest"), fsdp=2, tensor=2
    )
    assert specs(config) == {
        "conv/kernel": P(None, None, None, "fsdp"),
        "conv/bias": P(),
        "head/kernel": P("tensor", None),
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (rules(("conv/*", "none")), "no rule covers the parameter 'head/kernel'"),
        (rules(("*", "none"), ("conv/*", "largest")), "conv/*"),
        (rules(("haed/*", "none"), ("*", "none")), "haed/*"),
        (rules(("head/*", ("tensor",)), ("*", "none")), "does not fit 'head/kernel' of shape (6"),
        (rules(("head/*", ("", "expert")), ("*", "none"), expert=4), "does not fit 'head/kernel'"),
    ],
)
def test_rules_that_cover_too_little_or_decide_nothing_are_refused(config, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        specs(config)


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_the_default_rule_covers_every_parameter_of_every_model(name):
    model = models.create(name, num_classes=10)
    shape = (1, 32, 32, 3) if name in models.IMAGE_MODELS else (1, 16)
    reads = jnp.zeros(shape, jnp.float32 if name in models.IMAGE_MODELS else jnp.int32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), reads, train=False))
    sizes = {path: leaf.shape for path, leaf in paths.flatten(variables["params"]).items()}
    found = specs(MeshConfig(fsdp=2), sizes=sizes)
    assert found.keys() == sizes.keys()
    split = sum(math.prod(sizes[path]) for path, spec in found.items() if spec != P())
    assert split > 0.95 * sum(math.prod(size) for size in sizes.values())


def test_a_models_own_table():
    sizes = {
        "sparse/mlp/experts/gate": (2, 4, 64, 32),
        "sparse/mlp/router/kernel": (2, 64, 4),
        "norm/scale": (64,),
    }
    config = rules(("*/kernel", "none"), ("*", "deepseek"), fsdp=2, expert=2)
    assert specs(config, sizes=sizes) == {
        "sparse/mlp/experts/gate": P(None, "expert", "fsdp"),
        "sparse/mlp/router/kernel": P(),
        "norm/scale": P(),
    }
    with pytest.raises(
        ConfigError, match=r"mesh\.rules: parameter 'a/kernel' has no place in slim"
    ):
        specs(rules(("*", "deepseek"), fsdp=2), sizes={"a/kernel": (4, 4)})
    with pytest.raises(ConfigError, match=r"4 experts cannot be divided over expert = 8"):
        specs(rules(("*", "deepseek"), expert=8), sizes=sizes)


def test_what_belongs_to_a_parameter_lies_where_it_does():
    params = {"a": {"kernel": jnp.zeros((4, 6))}, "b": {"kernel": jnp.zeros((6,))}}
    config = MeshConfig(fsdp=2)
    mesh = meshes.build(config)
    sizes = {path: leaf.shape for path, leaf in paths.flatten(params).items()}
    state = {
        "params": params,
        "opt_state": optax.adamw(0.1).init(params),
        "average": {"params": params},
        "step": jnp.int32(0),
        "other": {"a": {"kernel": jnp.zeros((3,))}},  # a parameter's name, not its shape
    }
    found = meshes.state_shardings(state, params, specs(config, sizes=sizes), mesh)
    placed = {path: sharding.spec for path, sharding in paths.flatten(found).items()}
    adam = [path for path in placed if "/mu/" in path or "/nu/" in path]
    assert len(adam) == 4
    for path, spec in placed.items():
        if path.endswith("a/kernel") and not path.startswith("other"):
            assert spec == P(None, "fsdp"), path
        elif path.endswith("b/kernel"):
            assert spec == P("fsdp"), path
        else:
            assert spec == P(), path
    held = meshes.bytes_per_device(state, found)
    assert held == 4 * (4 * (24 + 6) // 2 + 3) + 2 * 4  # four copies, half here; two counters


def test_a_batch_is_dealt_out_over_data_and_fsdp():
    mesh = meshes.build(MeshConfig(fsdp=4))
    rows = np.arange(16, dtype=np.int32)
    placed = meshes.put_batch({"label": rows}, mesh)["label"]
    np.testing.assert_array_equal(placed, rows)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2,)}


def test_a_job_splits_its_whole_state(make_job):
    job = make_job(devices=4, layout=MeshConfig(fsdp=2))
    outcome = jobs.trained(job)
    kernel = outcome.variables["params"]["hidden1"]["kernel"]
    assert kernel.sharding.spec == P("fsdp")
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(32, 16)}
    trace = optax.tree_utils.tree_get(outcome.opt_state, "trace")["hidden1"]["kernel"]
    assert trace.sharding == kernel.sharding

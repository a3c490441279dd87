"""What every router and auxiliary loss promises, and what is made of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from slim.moe import AUXILIARY_LOSSES, ROUTERS, expert_choice, load, load_statistics, update_bias

TOKENS, EXPERTS, K = 32, 16, 3
SHAPE = (8, TOKENS // 8, EXPERTS)
MESH = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
SHARDED = NamedSharding(MESH, PartitionSpec("data"))


def routed(name):
    router = ROUTERS[name](K, groups=4, groups_kept=2)
    return router.route


def lost(name):
    def loss(logits, bias):
        return AUXILIARY_LOSSES[name](logits, routed("sigmoid")(logits, bias))

    return loss


def counted(logits, bias):
    loads = load(routed("softmax")(logits, bias), EXPERTS)
    return update_bias(bias, loads), load_statistics(loads, jnp.array(1))


def chosen(logits, _):
    return expert_choice(logits.reshape(TOKENS, EXPERTS), 4)


METHODS = {
    **{f"router {name}": routed(name) for name in ROUTERS},
    **{f"loss {name}": lost(name) for name in AUXILIARY_LOSSES},
    "balance and load": counted,
    "expert choice": chosen,
}


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.fixture(scope="module")
def compiled(method):
    return jax.jit(method)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (SHAPE, EXPERTS)]


@pytest.mark.parametrize(("table", "named"), [(ROUTERS, True), (AUXILIARY_LOSSES, False)])
def test_tables_hold_distinct_methods(table, named):
    assert len(set(table.values())) == len(table) > 0
    if named:
        assert [make(1).name for make in table.values()] == list(table)


def test_pure_under_jit_without_a_second_compilation(method, compiled):
    for seed in (0, 1):
        given = inputs(seed)
        chex.assert_trees_all_close(compiled(*given), method(*given), rtol=1e-5, atol=1e-6)
    assert compiled._cache_size() == 1


def test_abstract_evaluation_in_half_precision(method, compiled):
    logits, bias = jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16), jnp.zeros(EXPERTS)
    abstract = jax.eval_shape(method, logits, bias)
    expected = compiled(*inputs())
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, expected)
    floats = {leaf.dtype for leaf in jax.tree.leaves(expected)} - {jnp.dtype(jnp.int32)}
    assert floats == {jnp.dtype(jnp.float32)}


def test_over_devices(method, compiled):
    logits, bias = inputs()
    sharded = jax.jit(method)(jax.device_put(logits, SHARDED), bias)
    chex.assert_trees_all_close(sharded, compiled(logits, bias), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ROUTERS)
def test_routing_stays_where_its_tokens_are(name):
    logits, bias = inputs()
    program = jax.jit(routed(name)).lower(jax.device_put(logits, SHARDED), bias).compile()
    for sharding in jax.tree.leaves(program.output_shardings):
        assert sharding.is_equivalent_to(SHARDED, 3)
    assert not [line for line in program.as_text().splitlines() if " all-" in line]


@pytest.mark.parametrize("name", AUXILIARY_LOSSES)
def test_losses_reach_the_logits_alone(name):
    logits, bias = jax.jit(jax.grad(lost(name), (0, 1)))(*inputs())
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() > 1e-5
    np.testing.assert_array_equal(bias, 0)

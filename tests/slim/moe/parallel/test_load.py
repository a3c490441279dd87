"""The router's bias after a step is the same however the tokens are spread."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from slim.moe.balance import update_bias
from slim.moe.load import load
from slim.moe.parallel import AXES, token_spec, total_load
from slim.moe.routing import Routing

EXPERTS = 8


def routed(experts):
    return Routing(experts, gates=jnp.ones(experts.shape), scores=jnp.zeros((32, EXPERTS)))


def test_bias_of_sharded_tokens_equals_that_of_all():
    mesh = jax.make_mesh((2, 1, 2, 2), AXES, axis_types=(AxisType.Auto,) * 4)
    # Every device's own load is far from the whole one's: each sees two experts.
    experts = jnp.asarray(np.arange(64).reshape(32, 2) // 8 % EXPERTS, jnp.int32)
    experts = experts.at[0].set(7)
    bias = jnp.zeros(EXPERTS)
    whole = update_bias(bias, load(routed(experts), EXPERTS))

    def local(bias, experts):
        return update_bias(bias, total_load(load(routed(experts), EXPERTS)))

    spread = jax.shard_map(local, mesh=mesh, in_specs=(P(), token_spec()), out_specs=P())
    np.testing.assert_array_equal(spread(bias, experts), whole)

    placed = jax.device_put(experts, NamedSharding(mesh, token_spec()))
    automatic = jax.jit(lambda bias, experts: update_bias(bias, load(routed(experts), EXPERTS)))
    np.testing.assert_array_equal(automatic(bias, placed), whole)
    assert len(set(np.asarray(whole).tolist())) > 1

import chex
import jax.numpy as jnp
import numpy as np

from slim.distill import LOSSES
from slim.moe import gate_load
from slim.moe.compress import concatenate_experts
from slim.moe.experts import swiglu_rows
from slim.moe.routing import sigmoid
from tests.slim.moe.compress import mixtures


def dense_output(dense, x):
    return swiglu_rows(jnp.matmul, dense, x[None])[0]


def test_a_constant_router_becomes_its_experts_side_by_side():
    mixture, x = mixtures.make()
    # Affinities of a half for all; the bias alone decides.
    mixture = mixture._replace(
        kernel=jnp.zeros_like(mixture.kernel), bias=jnp.zeros(8).at[jnp.array([2, 5])].set(1.0)
    )
    router = sigmoid(2)
    gates = gate_load(mixtures.route(router, mixture, x), 8) / len(x)
    dense = concatenate_experts(mixture.experts, gates, 2)
    chex.assert_shape(dense.down, (1, 2 * mixtures.HIDDEN, mixtures.WIDTH))
    np.testing.assert_allclose(
        dense_output(dense, x), mixtures.output(router, mixture, x), atol=1e-5
    )


def test_more_experts_are_a_better_start():
    mixture, x = mixtures.make()
    router = sigmoid(2)
    y = mixtures.output(router, mixture, x)
    gates = gate_load(mixtures.route(router, mixture, x), 8) / len(x)
    # The scale of what is left goes to those that stay.
    np.testing.assert_allclose(gates.sum(), router.scale, rtol=1e-5)
    losses = [
        LOSSES["l2"].value(dense_output(concatenate_experts(mixture.experts, gates, keep), x), y)
        for keep in (1, 4, 8)
    ]
    assert losses == sorted(losses, reverse=True)

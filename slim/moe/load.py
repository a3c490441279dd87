"""How tokens spread over experts: what is logged of every layer.

A *load* is `(..., experts)` assignments counted, one layer's or a stack of layers'. Loads add up:
sum them over devices, batches or a whole validation set, then ask for a statistic (the paper's
global violation is of the sum, not a mean of violations).
"""

import jax
import jax.numpy as jnp

from slim.moe.routing import Routing


def load(routing: Routing, experts: int) -> jax.Array:
    """How many assignments each expert gets, over all leading dimensions: `(experts,)` int32.

    >>> from slim.moe import ROUTERS
    >>> load(ROUTERS["softmax"](1).route(jnp.array([[1.0, 0.0, 0.0], [2.0, 3.0, 0.0]])), 3)
    Array([1, 1, 0], dtype=int32)
    """
    counted = routing.experts.reshape(-1, 1) == jnp.arange(experts)
    return counted.sum(0, dtype=jnp.int32)


def gate_load(routing: Routing, experts: int) -> jax.Array:
    """The sum of the gates each expert gets, over all leading dimensions: `(experts,)` float32."""
    chosen = routing.experts.reshape(-1, 1) == jnp.arange(experts)
    return jnp.where(chosen, routing.gates.reshape(-1, 1), 0).sum(0)


def max_violation(load: jax.Array) -> jax.Array:
    """How far the fullest expert is above the mean: max / mean - 1, `(...)` float32.

    MaxVio of arXiv:2408.15664, section 4.1: 0 in balance, experts - 1 if one has all. A load of
    nothing gives -1.
    """
    load = load.astype(jnp.float32)
    return load.max(-1) / _mean(load) - 1


def load_entropy(load: jax.Array) -> jax.Array:
    """The entropy of the shares over log experts, `(...)` float32.

    1 in balance, 0 if one has all. A load of nothing gives 0, and so does a single expert.
    """
    load = load.astype(jnp.float32)
    experts = load.shape[-1]
    entropy = jax.scipy.special.entr(load / (_mean(load)[..., None] * experts)).sum(-1)
    return entropy / jnp.log(jnp.float32(max(2, experts)))


def dropped_share(dropped: jax.Array, load: jax.Array) -> jax.Array:
    """The share of the assignments that no expert computed, from their count `(...)`; float32."""
    load = load.astype(jnp.float32)
    return dropped.astype(jnp.float32) / (_mean(load) * load.shape[-1])


def load_statistics(load: jax.Array, dropped: jax.Array) -> dict[str, jax.Array]:
    """All of the above by name, float32.

    Args:
        load: `(..., experts)` assignments.
        dropped: `(...)` how many of them were dropped.
    """
    return {
        "max_violation": max_violation(load),
        "load_entropy": load_entropy(load),
        "dropped_share": dropped_share(dropped, load),
    }


def _mean(load: jax.Array) -> jax.Array:
    """The mean over experts, at least a share of one assignment."""
    return jnp.maximum(load.sum(-1), 1) / load.shape[-1]

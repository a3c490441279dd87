"""Keeping experts in balance: a bias that no gradient trains, and auxiliary losses.

An auxiliary loss (`AUXILIARY_LOSSES`) is a function of a router's logits and of the routing made
of them, without its weight, which a recipe gives. Over automatic mesh axes their means are over
all data; do not call them in `shard_map`, where the mean of products is not the product of means.
A new one is a function and its place in the table.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from slim.moe.routing import Routing, highest

AuxiliaryLoss = Callable[[jax.Array, Routing], jax.Array]
"""Logits `(..., length, experts)` and their routing, of the same leading dimensions, to a scalar
float32. The dimensions before `length` are sequences."""


def update_bias(bias: jax.Array, load: jax.Array, gamma: float = 1e-3) -> jax.Array:
    """b_i + gamma sign(mean load - load_i): loss-free balance (arXiv:2408.15664, algorithm 1).

    Args:
        bias: `(..., experts)`, of one layer or of a stack of layers.
        load: `(..., experts)` assignments of a step, summed over all data: by the sign of its own
            load each device would get another bias.
        gamma: the step. To hold a bias, as V3 does in the end, do not update it.

    Raises:
        ValueError: gamma is not above 0.

    >>> update_bias(jnp.zeros(3), jnp.array([5, 2, 2]))
    Array([-0.001,  0.001,  0.001], dtype=float32)
    """
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}; allowed: above 0, such as the paper's 0.001")
    load = load.astype(jnp.float32)
    sign = jnp.sign(load.mean(-1, keepdims=True) - load)
    return bias + (gamma * sign).astype(bias.dtype)


def switch_loss(logits: jax.Array, routing: Routing) -> jax.Array:
    """Over all tokens, experts * sum_i f_i P_i: Switch (arXiv:2101.03961, eq. 4 to 6).

    f_i is the share of assignments that i gets, P_i the mean of its share of a token's scores.
    1 in balance.
    """
    count = logits.shape[-1]
    experts, scores = (a.reshape(-1, a.shape[-1]) for a in (routing.experts, routing.scores))
    return count * _agreement(experts, scores)


def gshard_loss(logits: jax.Array, routing: Routing) -> jax.Array:
    """In each sequence, 1/experts * sum_e c_e/S m_e: GShard (arXiv:2006.16668, algorithm 1).

    c_e counts the first choices of a sequence's S tokens, m_e is the mean of e's share of a
    token's scores. 1/experts^2 in balance: its weight is as much larger than Switch's.
    """
    return (_agreement(routing.experts[..., :1], routing.scores) / logits.shape[-1]).mean()


def sequence_loss(logits: jax.Array, routing: Routing) -> jax.Array:
    """In each sequence, sum_i f_i P_i: DeepSeek-V3 (arXiv:2412.19437, eq. 17 to 20).

    f_i = experts / (k length) times the tokens among whose k highest scores is i, without bias or
    groups; P_i the mean of its share of a token's scores. 1 in balance.
    """
    k = routing.experts.shape[-1]
    experts = highest(routing.scores, k)
    return (logits.shape[-1] * _agreement(experts, routing.scores)).mean()


def z_loss(logits: jax.Array, routing: Routing) -> jax.Array:
    """Mean of logsumexp(logits)^2: keeps logits small (ST-MoE, arXiv:2202.08906, eq. 5)."""
    return jnp.square(jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)).mean()


def _agreement(experts: jax.Array, scores: jax.Array) -> jax.Array:
    """sum_i (share of the assignments) (mean share of scores), over the last but one dimension."""
    share = scores / (scores.sum(-1, keepdims=True) + 1e-20)
    chosen = experts[..., None] == jnp.arange(scores.shape[-1])
    return (chosen.astype(jnp.float32).mean((-3, -2)) * share.mean(-2)).sum(-1)


AUXILIARY_LOSSES: Mapping[str, AuxiliaryLoss] = {
    "switch": switch_loss,
    "gshard": gshard_loss,
    "sequence": sequence_loss,
    "z": z_loss,
}
"""By name."""

"""Fewer experts: those that are used least go, with what the router has of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.moe.experts import Experts
from slim.moe.routing import highest


class Mixture(NamedTuple):
    """The weights of a layer of routed experts.

    Attributes:
        kernel: the router's, `(width, experts)`.
        bias: of the choice, `(experts,)`; None where there is none.
        experts: the experts'.
    """

    kernel: jax.Array
    bias: jax.Array | None
    experts: Experts


def choose_experts(load: jax.Array, keep: int, groups: int = 1) -> jax.Array:
    """The most used experts, as many of each group: int32 `(..., keep)`, ascending.

    What is kept stays in groups of equal length in the same order. Of equal loads the lower index
    is kept.

    Args:
        load: `(..., experts)` of one layer or a stack of layers: counts (`load`), or sums of gates
            (`gate_load`).
        keep: how many to keep in a layer.
        groups: the router's.

    Raises:
        ValueError: keep is not in 1 to experts, or groups does not divide both.

    >>> choose_experts(jnp.array([7, 0, 9, 8]), 2), choose_experts(jnp.array([7, 0, 9, 8]), 2, 2)
    (Array([2, 3], dtype=int32), Array([0, 2], dtype=int32))
    """
    experts = load.shape[-1]
    if not 1 <= keep <= experts:
        raise ValueError(f"keep is {keep}; allowed: 1 to the {experts} experts there are")
    if groups < 1 or experts % groups or keep % groups:
        raise ValueError(
            f"groups is {groups}; it must divide the {experts} experts and keep = {keep}, so that "
            "all groups stay equally large"
        )
    grouped = load.astype(jnp.float32).reshape(*load.shape[:-1], groups, -1)
    within = jnp.sort(highest(grouped, keep // groups), axis=-1)
    starts = jnp.arange(groups, dtype=jnp.int32)[:, None] * (experts // groups)
    return (within + starts).reshape(*load.shape[:-1], keep)


def prune_experts(mixture: Mixture, kept: jax.Array) -> Mixture:
    """The mixture of the experts `kept` `(keep,)` alone; over a stack of layers by `jax.vmap`.

    It is the old one with the other experts closed (a bias of minus infinity): always of sigmoid
    affinities; of a softmax, whose affinities grow by the probability that is gone, if gates are
    normalized and all that is left of the bias is zero. A group scored by its two best must have
    two left.

    So where no token used what is removed the function is the old one, except that a group scored
    by its two best may have been kept for an expert that then was not chosen.
    """
    return Mixture(
        mixture.kernel[:, kept],
        None if mixture.bias is None else mixture.bias[kept],
        jax.tree.map(lambda leaf: leaf[kept], mixture.experts),
    )

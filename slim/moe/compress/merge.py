"""Fewer experts: similar ones become one, M-SMoE (Li et al. 2023, arXiv:2310.01334).

    assignment = group_experts(logit_similarity(logits), load, 4)
    merged = merge_experts(experts, assignment, load)
    y, dropped = remapped(mix, assignment)(merged, x, routing.experts, routing.gates)

The router stays as it is and `remapped` leads its choices to the merged experts, where the gates
of those that became one add up. One layer at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np

from slim.moe.compress.hidden import align_hidden
from slim.moe.compress.prune import choose_experts
from slim.moe.experts import Experts
from slim.moe.mixture import Mix


def logit_similarity(logits: jax.Array) -> jax.Array:
    """Cosines between experts' logits over tokens: `(tokens, experts)` -> `(experts, experts)`.

    The paper's: those are alike that the router wants for the same tokens.
    """
    logits = logits.astype(jnp.float32)
    columns = logits / jnp.maximum(jnp.linalg.norm(logits, axis=0), 1e-20)
    return jnp.matmul(columns.T, columns, precision=jax.lax.Precision.HIGHEST)


def group_experts(similarity: jax.Array, load: jax.Array, keep: int, groups: int = 1) -> jax.Array:
    """Which of `keep` merged experts each expert becomes a part of: int32 `(experts,)`.

    The most used experts (`choose_experts`) become different ones, in their order; every other
    joins the one of these that it is most similar to, of its own group where there are groups.

    Args:
        similarity: `(experts, experts)`.
        load: `(experts,)`, counts or sums of gates.
        keep: how many there will be.
        groups: the router's.

    Raises:
        ValueError: as `choose_experts`.
    """
    dominant = choose_experts(load, keep, groups)
    experts = jnp.arange(len(load), dtype=jnp.int32)[:, None]
    size = len(load) // groups
    similar = jnp.where(experts // size == dominant // size, similarity[:, dominant], -jnp.inf)
    similar = jnp.where(experts == dominant, jnp.inf, similar)
    return jnp.argmax(similar, axis=-1).astype(jnp.int32)


def merge_experts(experts: Experts, assignment: jax.Array, load: jax.Array) -> Experts:
    """The averages of the experts that become one, weighted by their use.

    Hidden units are aligned first, to those of the most used. Experts equal but for the order of
    their units stay the same function. On the host; not under `jit`.

    Args:
        experts: of `(experts, width, hidden)`.
        assignment: int `(experts,)`, of `group_experts`.
        load: `(experts,)`; where all that become one have none, they count the same.

    Raises:
        ValueError: the assignment leaves out one of 0 to its maximum, or has not one for each.
    """
    parts, use = np.asarray(assignment), np.asarray(load, np.float32)
    count = parts.max() + 1
    if parts.shape != use.shape or len(parts) != len(experts.gate):
        raise ValueError(
            f"assignment has shape {parts.shape} and load {use.shape}; allowed: one entry for each "
            f"of the {len(experts.gate)} experts"
        )
    if set(parts.tolist()) != set(range(count)):
        raise ValueError(f"assignment is {parts.tolist()}; it must have each of 0 to {count - 1}")
    weights, references = np.zeros_like(use), np.zeros_like(parts)
    for part in range(count):
        members = np.flatnonzero(parts == part)
        used = use[members] if use[members].any() else np.ones(len(members), np.float32)
        weights[members] = used / used.sum()
        references[members] = members[np.argmax(used)]

    def average(leaf: jax.Array) -> jax.Array:
        weighted = leaf.astype(jnp.float32) * jnp.asarray(weights)[:, None, None]
        return jax.ops.segment_sum(weighted, jnp.asarray(parts), count).astype(leaf.dtype)

    return jax.tree.map(average, align_hidden(experts, references))


def remapped(mix: Mix, assignment: jax.Array) -> Mix:
    """A `Mix` that takes choices among the old experts and has the merged ones compute them.

    A token whose choices became one expert goes there twice, and its gates add up.
    """

    def call(
        experts: Experts, x: jax.Array, chosen: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return mix(experts, x, assignment[chosen], gates)

    return call

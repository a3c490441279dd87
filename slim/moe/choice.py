"""Expert choice: experts choose tokens (Zhou et al. 2022, arXiv:2202.09368).

    choice = expert_choice(logits, capacity(tokens, experts, factor=2.0))
    y = mix_by_choice(weights, x, choice)

Every expert takes the tokens that want it most, equally many, so there is nothing to balance; a
token may get no expert or all. Whether a token is taken depends on all others, later ones too:
not for a decoder that generates.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.moe.experts import Experts, swiglu_rows


class Choice(NamedTuple):
    """Which tokens go to which expert.

    Attributes:
        tokens: `(experts, capacity)` int32, distinct in a row, the highest score first.
        gates: `(experts, capacity)` float32, the weight of each.
        slots: `(experts, tokens)` int32, each token's place in `tokens`; not chosen where that
            is capacity or more.
    """

    tokens: jax.Array
    gates: jax.Array
    slots: jax.Array


def capacity(tokens: int, experts: int, factor: float) -> int:
    """How many tokens an expert takes so that a token gets `factor` experts on average.

    Raises:
        ValueError: factor is not in (0, experts].

    >>> capacity(64, 8, factor=2.0)
    16
    """
    if not 0 < factor <= experts:
        raise ValueError(f"factor is {factor}; allowed: above 0, at most the {experts} experts")
    return math.ceil(tokens * factor / experts)


def expert_choice(logits: jax.Array, capacity: int) -> Choice:
    """Each expert's `capacity` best tokens by softmax scores over the experts, in float32.

    Of equal scores the earlier token's wins. Gradients reach the logits by the gates.

    Args:
        logits: `(tokens, experts)`.
        capacity: how many tokens an expert takes.

    Raises:
        ValueError: capacity is not in 1 to tokens.
    """
    if not 1 <= capacity <= logits.shape[0]:
        raise ValueError(f"capacity is {capacity}; allowed: 1 to the {logits.shape[0]} tokens")
    scores = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).T
    order = jnp.argsort(-jax.lax.stop_gradient(scores), axis=-1)
    slots = jnp.argsort(order, axis=-1).astype(jnp.int32)
    tokens = order[:, :capacity].astype(jnp.int32)
    return Choice(tokens, _gates(scores, tokens, slots), slots)


def mix_by_choice(weights: Experts, x: jax.Array, choice: Choice) -> jax.Array:
    """Every expert's output on its tokens, times their gates, added up: `(tokens, width)`."""
    y = swiglu_rows(jnp.matmul, weights, chosen(x, choice))
    return combine(y.astype(jnp.float32) * choice.gates[..., None], choice).astype(x.dtype)


def chosen(x: jax.Array, choice: Choice) -> jax.Array:
    """Each expert's tokens: `(tokens, width)` -> `(experts, capacity, width)`."""
    return _chosen(x, choice.tokens, choice.slots)


def combine(y: jax.Array, choice: Choice) -> jax.Array:
    """The sum of what experts made of each token, the transpose of `chosen`.

    `(experts, capacity, width)` -> `(tokens, width)`, added in float32.
    """
    return _combine(y, choice.tokens, choice.slots)


# Each is the other's transpose, so that neither direction needs a scatter-add.
@jax.custom_vjp
def _chosen(x: jax.Array, tokens: jax.Array, slots: jax.Array) -> jax.Array:
    return x[tokens]


@jax.custom_vjp
def _combine(y: jax.Array, tokens: jax.Array, slots: jax.Array) -> jax.Array:
    def add(total: jax.Array, expert: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        rows, slot = expert
        found = jnp.where((slot < len(rows))[:, None], rows.at[slot].get(mode="clip"), 0)
        return total + found.astype(jnp.float32), None

    total = jnp.zeros((slots.shape[1], y.shape[-1]), jnp.float32)
    return jax.lax.scan(add, total, (y, slots))[0].astype(y.dtype)


@jax.custom_vjp
def _gates(scores: jax.Array, tokens: jax.Array, slots: jax.Array) -> jax.Array:
    return jnp.take_along_axis(scores, tokens, axis=1)


Indices = tuple[jax.Array, jax.Array]
Cotangents = tuple[jax.Array, None, None]


def _chosen_forward(x: jax.Array, tokens: jax.Array, slots: jax.Array) -> tuple[jax.Array, Indices]:
    return _chosen(x, tokens, slots), (tokens, slots)


def _combine_forward(
    y: jax.Array, tokens: jax.Array, slots: jax.Array
) -> tuple[jax.Array, Indices]:
    return _combine(y, tokens, slots), (tokens, slots)


def _gates_forward(
    scores: jax.Array, tokens: jax.Array, slots: jax.Array
) -> tuple[jax.Array, Indices]:
    return _gates(scores, tokens, slots), (tokens, slots)


def _chosen_backward(indices: Indices, gradient: jax.Array) -> Cotangents:
    return _combine(gradient, *indices), None, None


def _combine_backward(indices: Indices, gradient: jax.Array) -> Cotangents:
    return _chosen(gradient, *indices), None, None


def _gates_backward(indices: Indices, gradient: jax.Array) -> Cotangents:
    slots = indices[1]
    count = gradient.shape[1]
    found = jnp.take_along_axis(gradient, jnp.minimum(slots, count - 1), axis=1)
    return jnp.where(slots < count, found, 0), None, None


_chosen.defvjp(_chosen_forward, _chosen_backward)
_combine.defvjp(_combine_forward, _combine_backward)
_gates.defvjp(_gates_forward, _gates_backward)

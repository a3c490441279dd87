"""The experts of one layer: SwiGLU perceptrons of equal size, their weights stacked.

expert_e(x) = (silu(x gate_e) * (x up_e)) down_e                       arXiv:2002.05202
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
Matmul = Callable[[jax.Array, Any], jax.Array]
RowFn = Callable[[Matmul, PyTree, jax.Array], jax.Array]
"""`(matmul, weights, x (rows, width)) -> (rows, any width)`, each row by itself. Whoever calls it
gives the weights of one expert, or of all with a `matmul` that knows which row belongs to which:
all products with weights must go through `matmul`."""

Grouped = Callable[[RowFn, PyTree, jax.Array, jax.Array], jax.Array]
"""`(fn, weights, x (rows, width), sizes (experts,)) -> (rows, any width)`: row by row `fn` with the
weights of the row's expert, the rows being sorted by expert. See `slim.moe.grouped`."""


class Experts(NamedTuple):
    """The weights of all experts: arrays, or what is said of each, such as a `PartitionSpec`.

    Attributes:
        gate: `(experts, width, hidden)`, into the gating activation.
        up: `(experts, width, hidden)`, into what is gated.
        down: `(experts, hidden, width)`, back.
    """

    gate: Any
    up: Any
    down: Any


def swiglu_rows(matmul: Matmul, weights: Experts, x: jax.Array) -> jax.Array:
    """A `RowFn`: SwiGLU."""
    return matmul(jax.nn.silu(matmul(x, weights.gate)) * matmul(x, weights.up), weights.down)


def swiglu(weights: Experts, rows: jax.Array, sizes: jax.Array, grouped: Grouped) -> jax.Array:
    """Every row through its expert.

    Args:
        weights: of all experts.
        rows: `(rows, width)`, sorted by expert.
        sizes: `(experts,)` integers, the rows of each expert; zeros come out for rows past their
            sum.
        grouped: one of `slim.moe.grouped.BACKENDS`.
    """
    return grouped(swiglu_rows, weights, rows, sizes)


def one_by_one(weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array) -> jax.Array:
    """The layer token by token, expert by expert: slow, and what all else must equal.

        y_t = sum_i gates_ti expert_{experts_ti}(x_t)

    Args:
        weights: of all experts.
        x: `(tokens, width)`.
        experts: `(tokens, k)` integers.
        gates: `(tokens, k)` floats.

    Returns:
        `(tokens, width)`.
    """

    def token(of: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        x, experts, gates = of
        y = jnp.zeros(x.shape, gates.dtype)
        for expert, gate in zip(experts, gates, strict=True):
            own = jax.tree.map(lambda weight: weight[expert], weights)  # noqa: B023
            y += gate * swiglu_rows(jnp.matmul, own, x).astype(gates.dtype)
        return y.astype(x.dtype)

    return jax.lax.map(token, (x, experts, gates))

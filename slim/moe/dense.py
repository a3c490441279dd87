"""Experts without routes: every expert computes every token, for programs that cannot sort."""

import jax
import jax.numpy as jnp

from slim.moe.experts import Experts, swiglu_rows
from slim.moe.mixture import Mix, check


def dense() -> Mix:
    """All experts compute all tokens, and gates of 0 take away what was not chosen.

    As much work as experts over active ones more, by matmuls alone: what exported models do where
    a runtime has neither ragged products nor sorting.

    Raises:
        ValueError: when called, arguments that do not belong together.
    """

    def mix(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        check(weights, x, experts, gates)
        count = weights.gate.shape[0]
        chosen = (experts[..., None] == jnp.arange(count)).astype(gates.dtype)
        shares = (chosen * gates[..., None]).sum(1)
        y = swiglu_rows(jnp.matmul, weights, jnp.broadcast_to(x, (count, *x.shape)))
        return (y.astype(gates.dtype) * shares.T[..., None]).sum(0).astype(x.dtype), jnp.int32(0)

    return mix

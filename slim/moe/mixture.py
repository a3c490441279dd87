"""The experts' part of a layer, once tokens have their experts: the ways to compute it.

    mix = dropless()
    y, dropped = mix(weights, x, routing.experts, routing.gates)      x (tokens, width)

Every way is a `Mix` and equals `reference()`, in both passes; `slim.moe.parallel` has those over
many devices.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from slim.moe import dispatch
from slim.moe.experts import Experts, one_by_one, swiglu, swiglu_rows
from slim.moe.grouped import backend_named

Mix = Callable[[Experts, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`(weights, x (tokens, width), experts (tokens, k), gates (tokens, k)) -> (y, dropped)`:

    y_t = sum_i gates_ti expert_{experts_ti}(x_t)

`(tokens, width)` in x's dtype, and how many of the tokens k terms are missing in it, int32."""


def dropless(backend: str = "platform") -> Mix:
    """Sort by expert, compute each expert's rows together, unsort: no term is missing.

    Args:
        backend: a name in `slim.moe.grouped.BACKENDS`.

    Raises:
        ValueError: an unknown name; when called, arguments that do not belong together.
    """
    grouped = backend_named(backend)

    def mix(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        check(weights, x, experts, gates)
        order, inverse, sizes = dispatch.sort(experts, weights.gate.shape[0])
        rows = swiglu(weights, dispatch.permute(x, order, inverse), sizes, grouped)
        return combine(rows, order, inverse, gates), jnp.int32(0)

    return mix


def buckets(capacity_factor: float = 1.25) -> Mix:
    """Give every expert room for `capacity_factor` times the mean; the last terms get none.

    An expert's first tokens come first (GShard, arXiv:2006.16668, without its priority to first
    choices). One batched matmul, whose work does not depend on the routing.

    Raises:
        ValueError: a factor that is not positive; when called, arguments that do not belong
            together.
    """
    if not capacity_factor > 0:
        raise ValueError(
            f"capacity_factor is {capacity_factor}; allowed: above 0, such as 1.25, or the number "
            "of experts for no drops"
        )

    def mix(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        check(weights, x, experts, gates)
        count = weights.gate.shape[0]
        capacity = min(math.ceil(capacity_factor * experts.size / count), experts.size)
        order, inverse, filled = dispatch.buckets(dispatch.sort(experts, count), capacity)
        rows = dispatch.permute(x, order, inverse).reshape(count, capacity, -1)
        y = swiglu_rows(jnp.matmul, weights, rows).reshape(count * capacity, -1)
        return combine(y, order, inverse, gates), experts.size - filled.sum()

    return mix


def reference() -> Mix:
    """Token by token, expert by expert: what all others must equal. For tests."""

    def mix(
        weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        check(weights, x, experts, gates)
        return one_by_one(weights, x, experts, gates), jnp.int32(0)

    return mix


def combine(rows: jax.Array, order: jax.Array, inverse: jax.Array, gates: jax.Array) -> jax.Array:
    """Rows back to their tokens, summed with the gates in the gates' precision."""
    terms = dispatch.permute(rows, inverse, order).reshape(*gates.shape, -1)
    return (terms.astype(gates.dtype) * gates[..., None]).sum(1).astype(rows.dtype)


def check(weights: Experts, x: jax.Array, experts: jax.Array, gates: jax.Array) -> None:
    """Refuse arguments that do not belong together."""
    count, width, hidden = weights.gate.shape
    for field, value, wanted in (
        ("up", weights.up.shape, (count, width, hidden)),
        ("down", weights.down.shape, (count, hidden, width)),
        ("x", x.shape, (*x.shape[:1], width)),
        ("experts", experts.shape, (*x.shape[:1], *experts.shape[-1:])),
        ("gates", gates.shape, experts.shape),
    ):
        if value != wanted:
            raise ValueError(
                f"{field} has shape {value}; allowed: {wanted}, for weights.gate of shape "
                f"{weights.gate.shape} (experts, width, hidden) and {x.shape[0]} tokens"
            )

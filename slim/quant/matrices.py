"""A site's matrix product as plain matrices: inputs (rows, in) and a weight (in, out)."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from slim.quant.policy import Assigned, Weights


def is_matmul(assigned: Assigned) -> bool:
    """Whether a site is a product of data with one quantized matrix, in blocks of whole rows.

    Not a convolution or a batch of matrices; nor one whose groups lie along one of several
    contracted dimensions, because rows next to each other then share no scale.
    """
    site = assigned.site
    spec = next((role.spec for role in assigned.roles if role.name == "weights"), None)
    if site.primitive != "dot_general" or any(site.batch) or not isinstance(spec, Weights):
        return False
    return isinstance(spec.granularity, str) or len(site.contracted[0]) == 1


def inputs(assigned: Assigned, data: jax.Array) -> jax.Array:
    """A site's data as (rows, in)."""
    place = 1 - _weights(assigned)
    contracted = assigned.site.contracted[place]
    free = [d for d in range(data.ndim) if d not in contracted]
    data = jnp.transpose(data, (*free, *contracted))
    return data.reshape(-1, math.prod(data.shape[len(free) :]))


def matrix(assigned: Assigned, operand: Any) -> jax.Array:
    """A site's parameter, or its scale or zero point, as (in, out)."""
    order, contracted = _order(assigned, operand.ndim)
    operand = jnp.transpose(operand, order)
    return operand.reshape(math.prod(operand.shape[:contracted]), -1)


def from_matrix(assigned: Assigned, values: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The inverse of `matrix`: an operand of `shape`."""
    order, _ = _order(assigned, len(shape))
    return jnp.transpose(
        values.reshape([shape[d] for d in order]), [order.index(d) for d in range(len(shape))]
    )


def _order(assigned: Assigned, ndim: int) -> tuple[list[int], int]:
    contracted = assigned.site.contracted[_weights(assigned)]
    return [*contracted, *(d for d in range(ndim) if d not in contracted)], len(contracted)


def _weights(assigned: Assigned) -> int:
    return next(role.operand for role in assigned.roles if role.name == "weights")

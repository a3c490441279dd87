"""A site's matrix product as plain matrices: inputs (rows, in) and a weight (in, out)."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from slim.quant.policy import Assigned


def is_matmul(assigned: Assigned) -> bool:
    """Whether a site is a product of data with one quantized matrix, in blocks of whole rows.

    Not a convolution or a batch of matrices; nor one whose groups lie along one of several
    contracted dimensions, because rows next to each other then share no scale.
    """
    site = assigned.site
    if site.primitive != "dot_general" or any(site.batch) or assigned.weights is None:
        return False
    return isinstance(assigned.weights.granularity, str) or len(site.contracted[0]) == 1


def input_count(assigned: Assigned) -> int:
    """How many inputs each row has."""
    place = parameter_place(assigned)
    shape = assigned.site.shapes[place]
    return math.prod(shape[d] for d in assigned.site.contracted[place])


def inputs(assigned: Assigned, operands: Sequence[jax.Array]) -> jax.Array:
    """The data among a site's operands as (rows, in)."""
    return rows(assigned, operands[1 - parameter_place(assigned)])


def rows(assigned: Assigned, data: jax.Array) -> jax.Array:
    """A site's data, or what broadcasts with it in full along the inputs, as (rows, in)."""
    contracted = assigned.site.contracted[1 - parameter_place(assigned)]
    free = [d for d in range(data.ndim) if d not in contracted]
    data = jnp.transpose(data, (*free, *contracted))
    return data.reshape(-1, input_count(assigned))


def per_input(assigned: Assigned, vector: jax.Array) -> jax.Array:
    """A number for each input, (in,), in a shape that broadcasts with the data."""
    return _along_contracted(assigned, 1 - parameter_place(assigned), vector)


def per_row_of_weights(assigned: Assigned, vector: jax.Array) -> jax.Array:
    """A number for each input, (in,), in a shape that broadcasts with the weight."""
    return _along_contracted(assigned, parameter_place(assigned), vector)


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


def has_parameter(assigned: Assigned) -> bool:
    """Whether one of a site's operands is a parameter."""
    return any(path is not None for path in assigned.site.operands[:2])


def parameter_place(assigned: Assigned) -> int:
    """Which of a site's operands is the parameter."""
    return next(i for i, path in enumerate(assigned.site.operands[:2]) if path is not None)


def _order(assigned: Assigned, ndim: int) -> tuple[list[int], int]:
    contracted = assigned.site.contracted[parameter_place(assigned)]
    return [*contracted, *(d for d in range(ndim) if d not in contracted)], len(contracted)


def _along_contracted(assigned: Assigned, place: int, vector: jax.Array) -> jax.Array:
    shape, contracted = assigned.site.shapes[place], assigned.site.contracted[place]
    sizes = vector.reshape([shape[d] for d in contracted])
    in_order = jnp.transpose(sizes, [contracted.index(d) for d in sorted(contracted)])
    return in_order.reshape([n if d in contracted else 1 for d, n in enumerate(shape)])

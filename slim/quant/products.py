"""Products of quantized tensors: int8 summed in int32, floats in float32, scaled afterwards."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.graph import Contraction
from slim.quant.numerics import QTensor, find_format
from slim.quant.numerics.qtensor import steps_from_zero
from slim.quant.policy import Assigned, Weights

INT32, FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)


def has_product(contract: Contraction, assigned: Assigned) -> bool:
    """Whether `product` can compute a site.

    Its operands must both be integers, or one a 16-bit float and the other that too or of 8 bits or
    less. It cannot for ragged products, nor for convolutions whose kernel has groups, or a zero
    point in a product of integers. Two floats of 8 bits it can in a `dot_general`; devices that
    have no such product compute in wider floats.
    """
    formats = [find_format(role.spec.format) for role in assigned.roles]
    casts = {fmt.name for fmt in formats if fmt.is_cast}
    if len(formats) < 2 or len(casts) > 1:
        return False
    eights = [not fmt.is_integer and not fmt.is_cast for fmt in formats]
    if contract.eqn.primitive.name == "dot_general":
        return bool(casts) or all(eights) or not any(eights)
    if not casts and any(eights):
        return False
    role = assigned.parameter
    return (
        contract.eqn.primitive.name == "conv_general_dilated"
        and role is not None
        and role.operand == 1
        and isinstance(role.spec, Weights)
        and (role.is_cast or isinstance(role.spec.granularity, str))
        and (role.spec.symmetric or bool(casts))
    )


def product(contract: Contraction, lhs: QTensor, rhs: QTensor) -> jax.Array:
    """The result of a `dot_general` or convolution of two tensors; see `has_product`.

    The sum over k of (l_k - z_l)(r_k - z_r), of integers, is exact while it is below 2^31: of up to
    130,000 products of 8 bits.
    """
    casts = [q.format for q in (lhs, rhs) if find_format(q.format).is_cast]
    if casts:
        lhs, rhs = (_cast(q, casts[0]) for q in (lhs, rhs))
    elif find_format(lhs.format).is_integer:
        lhs, rhs = _signed(lhs), _signed(rhs)
    dot = contract.eqn.primitive.name == "dot_general"
    result = _dot(contract, lhs, rhs) if dot else _conv(contract, lhs, rhs)
    out: Any = contract.eqn.outvars[0].aval
    return result.astype(out.dtype)


def _signed(q: QTensor) -> QTensor:
    """The same tensor in int8, which all devices multiply: uint8 is moved down by 128."""
    if q.values.dtype == jnp.int8:
        return q
    if q.format != "uint8":
        return QTensor(q.values.astype(jnp.int8), q.scale, q.zero_point, "int8")
    zero = jnp.zeros(q.scale.shape, jnp.int32) if q.zero_point is None else q.zero_point
    moved = (q.values.astype(jnp.int16) - jnp.int16(128)).astype(jnp.int8)
    return QTensor(moved, q.scale, zero - 128, "int8")


def _cast(q: QTensor, format: str) -> QTensor:
    """The same tensor in a 16-bit float: it holds what 8 bits less a zero point can be, exactly."""
    steps = steps_from_zero(q.values.astype(jnp.float32), q.zero_point)
    return QTensor(steps.astype(find_format(format).dtype), q.scale, None, format)


def _sum_type(q: QTensor) -> np.dtype:
    return INT32 if find_format(q.format).is_integer else FLOAT32


class _Side(NamedTuple):
    """An operand of a `dot_general`: the dimensions that are summed over, and the shared ones."""

    q: QTensor
    contracted: tuple[int, ...]
    batch: tuple[int, ...]

    @property
    def free(self) -> tuple[int, ...]:
        taken = (*self.contracted, *self.batch)
        return tuple(d for d in range(self.q.values.ndim) if d not in taken)

    def sums(self) -> jax.Array:
        return self.q.values.astype(jnp.int32).sum(self.contracted, keepdims=True)


def _dot(contract: Contraction, lhs: QTensor, rhs: QTensor) -> jax.Array:
    contracted, batch = contract.eqn.params["dimension_numbers"]
    sides = [
        _Side(q, tuple(c), tuple(b)) for q, c, b in zip((lhs, rhs), contracted, batch, strict=True)
    ]
    for place in range(len(sides[0].contracted)):
        count = max(side.q.scale.shape[side.contracted[place]] for side in sides)
        if count > 1:
            return _summed(contract, *(_split(side, place, count) for side in sides)).sum(0)
    return _summed(contract, *sides)


def _split(side: _Side, place: int, count: int) -> _Side:
    """A side with a contracted dimension divided into `count` groups: its first batch dimension."""
    dim = side.contracted[place]

    def divided(array: jax.Array) -> jax.Array:
        groups = count if array.shape[dim] > 1 else 1
        shape = (*array.shape[:dim], groups, array.shape[dim] // groups, *array.shape[dim + 1 :])
        return jnp.moveaxis(array.reshape(shape), dim, 0)

    def after(dims: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(d + 1 for d in dims)

    return _Side(
        dataclasses.replace(
            side.q,
            values=divided(side.q.values),
            scale=divided(side.q.scale),
            zero_point=None if side.q.zero_point is None else divided(side.q.zero_point),
        ),
        after(side.contracted),
        (0, *after(side.batch)),
    )


def _summed(contract: Contraction, lhs: _Side, rhs: _Side) -> jax.Array:
    total = contract(
        lhs.q.values,
        rhs.q.values,
        dimension_numbers=((lhs.contracted, rhs.contracted), (lhs.batch, rhs.batch)),
        preferred_element_type=_sum_type(lhs.q),
    )

    def placed(side: _Side, array: jax.Array) -> jax.Array:
        """An array of size 1 along what is contracted, laid out to broadcast with the result."""
        array = jnp.transpose(array, (*side.batch, *side.free, *side.contracted))
        shared, own = len(side.batch), len(side.batch) + len(side.free)
        batch, free = array.shape[:shared], array.shape[shared:own]
        if side is lhs:
            return array.reshape((*batch, *free, *(1 for _ in rhs.free)))
        return array.reshape((*batch, *(1 for _ in lhs.free), *free))

    # (l - z)(r - y) summed: total - z sum(r) - y sum(l) + count z y
    for side, other in ((lhs, rhs), (rhs, lhs)):
        if side.q.zero_point is not None:
            total = total - placed(side, side.q.zero_point) * placed(other, other.sums())
    if lhs.q.zero_point is not None and rhs.q.zero_point is not None:
        count = math.prod(lhs.q.values.shape[d] for d in lhs.contracted)
        both = placed(lhs, lhs.q.zero_point) * placed(rhs, rhs.q.zero_point)
        total = total + jnp.int32(count) * both
    return total.astype(jnp.float32) * (placed(lhs, lhs.q.scale) * placed(rhs, rhs.q.scale))


def _conv(contract: Contraction, lhs: QTensor, rhs: QTensor) -> jax.Array:
    params = contract.eqn.params
    numbers = params["dimension_numbers"]
    features = [1] * lhs.values.ndim
    features[numbers.out_spec[1]] = -1

    def placed(array: jax.Array) -> jax.Array:
        """One number for each output channel, or one for all."""
        return array.reshape(features)

    if lhs.zero_point is None:
        total = _convolved(contract, lhs.values, rhs.values)
    else:
        # Padding, and the holes of a dilated input, are zero: the zero point.
        zero = lhs.zero_point.reshape(())
        config = [(0, 0, 0)] * lhs.values.ndim
        for dim, (low, high), dilation in zip(
            numbers.lhs_spec[2:], params["padding"], params["lhs_dilation"], strict=True
        ):
            config[dim] = (low, high, dilation - 1)
        padded = jax.lax.pad(lhs.values, zero.astype(jnp.int8), config)
        total = _convolved(
            contract,
            padded,
            rhs.values,
            padding=((0, 0),) * len(params["padding"]),
            lhs_dilation=(1,) * len(params["padding"]),
        )
        kernel = rhs.values.astype(jnp.int32)
        summed = kernel.sum([d for d in range(kernel.ndim) if d != numbers.rhs_spec[0]])
        total = total - zero * placed(summed)
    return total.astype(jnp.float32) * (lhs.scale.reshape(()) * placed(rhs.scale))


def _convolved(contract: Contraction, lhs: jax.Array, rhs: jax.Array, **changes: Any) -> jax.Array:
    """The convolution of int8 in int32, or of 16-bit floats in float32.

    XLA's CPU code of a convolution between few channels is 3 to 14 times slower in integers than in
    floats (of more channels 1.5 times faster); float32 holds sums below 2^24 exactly.
    """

    def integers(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        total: jax.Array = contract(lhs, rhs, preferred_element_type=INT32, **changes)
        return total

    def floats(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        operands = (lhs.astype(FLOAT32), rhs.astype(FLOAT32))
        total: jax.Array = contract(*operands, preferred_element_type=FLOAT32, **changes)
        return total.astype(INT32)

    if lhs.dtype != jnp.int8:
        summed: jax.Array = contract(lhs, rhs, preferred_element_type=FLOAT32)
        return summed
    spec = contract.eqn.params["dimension_numbers"].rhs_spec
    outputs, inputs = rhs.shape[spec[0]], rhs.shape[spec[1]]
    if inputs * outputs > 256 or rhs.size // outputs * 2**14 > 2**24:
        return integers(lhs, rhs)
    found: jax.Array = jax.lax.platform_dependent(lhs, rhs, cpu=floats, default=integers)
    return found

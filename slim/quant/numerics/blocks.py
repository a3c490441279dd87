"""Blocks: the entries of a tensor that share one scale.

The scale of a tensor of shape (n_0, n_1, ...) has a shape (m_0, m_1, ...) of the same length where
every m_d divides n_d; one entry of it belongs to a block of (n_0 / m_0, n_1 / m_1, ...) entries.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp

Granularity = Literal["tensor", "channel"] | int

T = TypeVar("T")


def scale_shape(
    shape: Sequence[int],
    contracted: Sequence[int],
    granularity: Granularity,
    group_dim: int | None = None,
) -> tuple[int, ...]:
    """The shape of a tensor's scales.

    Args:
        shape: of the tensor.
        contracted: the dimensions that the product sums over.
        granularity: "tensor" for one scale, "channel" for one per index of what is not contracted,
            or the number of entries along `group_dim` that share a scale within each channel.
        group_dim: the contracted dimension that groups lie along; the last of `contracted` if None.

    Raises:
        ValueError: a dimension that is not there, an unknown granularity, a group that does not
            divide the dimension.

    >>> scale_shape((3, 3, 64, 32), contracted=(0, 1, 2), granularity="channel")
    (1, 1, 1, 32)
    >>> scale_shape((64, 32), contracted=(0,), granularity=16)
    (4, 32)
    """
    absent = [d for d in contracted if not 0 <= d < len(shape)]
    if absent:
        raise ValueError(
            f"contracted dimension {absent[0]} of a tensor of shape {tuple(shape)}: "
            f"must be from 0 to {len(shape) - 1}"
        )
    if granularity == "tensor":
        return (1,) * len(shape)
    result = [1 if d in contracted else n for d, n in enumerate(shape)]
    if granularity == "channel":
        return tuple(result)
    if isinstance(granularity, bool) or not isinstance(granularity, int) or granularity < 1:
        raise ValueError(
            f'granularity is {granularity!r}: must be "tensor", "channel" or the size of a group, '
            "such as 64"
        )
    along = group_dim if group_dim is not None else next(reversed(contracted), None)
    if along not in contracted or along is None:
        raise ValueError(
            f"group_dim is {group_dim}: groups lie along a contracted dimension, here "
            f"{tuple(contracted)}"
        )
    if shape[along] % granularity:
        divisors = [n for n in range(1, shape[along] + 1) if shape[along] % n == 0]
        raise ValueError(
            f"groups of {granularity} do not divide dimension {along} of size {shape[along]} "
            f"(shape {tuple(shape)}); its divisors are {', '.join(map(str, divisors))}"
        )
    result[along] = shape[along] // granularity
    return tuple(result)


def check_blocks(shape: Sequence[int], scale_shape: Sequence[int]) -> None:
    """Raise ValueError unless scales of `scale_shape` divide a tensor of `shape` into blocks."""
    if len(scale_shape) != len(shape) or any(
        m < 1 or n % m for n, m in zip(shape, scale_shape, strict=True)
    ):
        raise ValueError(
            f"scale of shape {tuple(scale_shape)} for a tensor of shape {tuple(shape)}: it must "
            f"have {len(shape)} dimensions, each a divisor of the tensor's; see scale_shape()"
        )


def spread(per_block: jax.Array, shape: Sequence[int]) -> jax.Array:
    """One number per block, repeated until it broadcasts against a tensor of `shape`.

    Raises:
        ValueError: its shape does not divide `shape` into blocks.

    >>> spread(jnp.array([1, 2]), (4,)).tolist()
    [1, 1, 2, 2]
    """
    check_blocks(shape, per_block.shape)
    for d, n in enumerate(shape):
        if per_block.shape[d] not in (1, n):
            per_block = jnp.repeat(per_block, n // per_block.shape[d], axis=d)
    return per_block


def reduce_blocks(reduce: Callable[..., T], x: jax.Array, scale_shape: Sequence[int]) -> T:
    """`reduce(x, axis=...)` of every block: an array of `scale_shape`, or several.

    Raises:
        ValueError: `scale_shape` does not divide x into blocks.

    >>> reduce_blocks(jnp.sum, jnp.arange(4), (2,)).tolist()
    [1, 5]
    """
    check_blocks(x.shape, scale_shape)
    split = [size for n, m in zip(x.shape, scale_shape, strict=True) for size in (m, n // m)]
    return reduce(x.reshape(split), axis=tuple(range(1, len(split), 2)))

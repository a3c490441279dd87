"""Strided convolutions of few channels, as convolutions without strides over blocks of two by two.

Kernels for 8-bit integers read channels in fours or eights: of an image's three, most of what they
multiply is nothing. A block of two by two pixels has twelve, and half as many taps a side:

    y[i] = sum_d w[d] x[2 i + d - p] = sum_D W[D] X[i + D - q],   X[j] = x[2 j], x[2 j + 1]
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_CHANNELS = 4
SIDE = 2
"""Of a block."""


class Blocks(NamedTuple):
    """How a convolution along height and width reads blocks.

    Attributes:
        before: rows of zeros that its kernel gets first, in each dimension.
        taps: blocks that it then spans.
        padding: blocks of zeros at the data's ends.
    """

    before: tuple[int, ...]
    taps: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


def blocks(
    taps: Sequence[int], low: Sequence[int], sizes: Sequence[int], results: Sequence[int]
) -> Blocks | None:
    """Of a convolution with strides of two; None where it has no such form.

    Args:
        taps: of its kernel, by dimension.
        low: zeros before the data.
        sizes: of the data.
        results: how many there are.
    """
    if any(n % SIDE or n == 0 for n in sizes):
        return None
    before = tuple(n % SIDE for n in low)
    spans = tuple(-(-(n + b) // SIDE) for n, b in zip(taps, before, strict=True))
    first = tuple(-(-n // SIDE) for n in low)
    rows = zip(results, spans, sizes, first, strict=True)
    last = tuple(count - 1 + span - size // SIDE - start for count, span, size, start in rows)
    if min(last) < 0:
        return None
    return Blocks(before, spans, tuple(zip(first, last, strict=True)))


def over_blocks(kernel: np.ndarray, of: Blocks) -> np.ndarray:
    """`(outputs, height, width, channels)` -> the kernel of blocks, channels of a row together."""
    outputs, *sides, channels = kernel.shape
    rows = zip(of.before, of.taps, sides, strict=True)
    ends = [(before, SIDE * span - before - side) for before, span, side in rows]
    data = np.pad(kernel, ((0, 0), *ends, (0, 0)))
    data = data.reshape(outputs, of.taps[0], SIDE, of.taps[1], SIDE, channels)
    data = data.transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(data.reshape(outputs, *of.taps, SIDE**2 * channels))

"""Which parts of a network do the same with other parameters, as its middle layers do."""

import re
from collections.abc import Hashable, Sequence

import jax
import numpy as np

from slim.graph import Segment


def signature(segment: Segment) -> Hashable:
    """Equal for segments that run the same operations on the same shapes, parameters aside."""
    jaxpr, value = jax.make_jaxpr(segment.run, return_shape=True)(
        list(segment.params.values()), list(segment.takes)
    )
    # A function's derivatives are printed by where they lie in memory.
    text = re.sub(r"0x[0-9a-f]+", "", str(jaxpr))
    consts = tuple((x.shape, str(x.dtype), x.tobytes()) for x in map(np.asarray, jaxpr.consts))
    return text, consts, jax.tree.structure(value)


def longest_run(signatures: Sequence[Hashable]) -> tuple[int, int]:
    """The longest stretch `[start, end)` of equal neighbours; the first of several.

    >>> longest_run("abbbc")
    (1, 4)
    """
    best = (0, 0)
    start = 0
    for end in range(1, len(signatures) + 1):
        if end == len(signatures) or signatures[end] != signatures[start]:
            best = max(best, (start, end), key=lambda stretch: stretch[1] - stretch[0])
            start = end
    return best

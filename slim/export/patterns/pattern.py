"""What a pattern is."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

Function = Callable[..., jax.Array]


@dataclass(frozen=True)
class Pattern:
    """An operation, and ways that people write it in JAX.

    A spelling is an ordinary function. Its positional arguments are operands: first `x`, then any
    of the size of `x` along `axis`. Its keywords are params: `axis`, the one dimension that is
    reduced, or `axes`, a tuple of them; `keepdims`; others are numbers, such as `epsilon`.

    Attributes:
        compute: the operation itself, of the same arguments; what a Program runs.
        spellings: those with more operands first.
    """

    compute: Function
    spellings: tuple[Function, ...] = ()

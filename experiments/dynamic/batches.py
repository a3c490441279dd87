"""Many examples through one compiled function, in batches of few sizes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from slim.dynamic.execute import fitting

PyTree = Any


def straight(
    program: Callable[..., Any], variables: PyTree, inputs: np.ndarray, sizes: Sequence[int]
) -> Any:
    """The outputs for all examples as NumPy arrays, each `(examples, ...)`.

    Batches are as large as those of `slim.dynamic.Batched`, to the last one. All are dispatched
    before the first result is read.

    Args:
        program: `program(variables, inputs)`, compiled at each size.
        variables: of it.
        inputs: one example or more.
        sizes: ascending.

    >>> from jax import numpy as jnp
    >>> straight(jax.jit(lambda v, x: v * x), 2.0, np.arange(3.0, dtype="f"), (1, 2)).tolist()
    [0.0, 2.0, 4.0]
    """
    parts, counts, start = [], [], 0
    while start < len(inputs):
        size = fitting(len(inputs) - start, sizes)
        rows = inputs[start : start + size]
        counts.append(len(rows))
        if len(rows) < size:
            rows = np.concatenate([rows, rows[-1:].repeat(size - len(rows), 0)])
        parts.append(program(variables, rows))
        start += size

    def joined(*leaves: jax.Array) -> np.ndarray:
        each = zip(leaves, counts, strict=True)
        return np.concatenate([np.asarray(leaf)[:count] for leaf, count in each])

    return jax.tree.map(joined, *parts)

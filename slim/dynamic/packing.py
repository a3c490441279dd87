"""Packing the examples of a batch that need one and the same program into static sizes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def packs(chosen: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """The chosen examples' rows, in packs of sizes that are compiled.

    As many of the largest size as are full, then one of the smallest size that holds the rest.
    Free places have a row that does not exist, the batch's size.

    >>> [pack.tolist() for pack in packs(np.array([True, False, True, True]), sizes=(1, 2))]
    [[0, 2], [3]]
    """
    rows, largest = np.flatnonzero(chosen).astype(np.int32), max(sizes)
    parts = [rows[start : start + largest] for start in range(0, len(rows), largest)]
    padded = []
    for part in parts:
        free = min(size for size in sizes if size >= len(part)) - len(part)
        padded.append(np.pad(part, (0, free), constant_values=len(chosen)))
    return padded


def packed(fn: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`run(params, outputs, rows, *inputs)`: the outputs with `fn`'s in the rows of one pack.

    Pure, and to be compiled once for each size of the pack (and shape of the inputs).

    Args:
        fn: `fn(params, *inputs) -> outputs`, both with the batch first.

    >>> double = packed(lambda params, x: params * x)
    >>> rows = jnp.array([2, 0, 3])                      # of three examples the last does not exist
    >>> double(2.0, jnp.zeros(3), rows, jnp.arange(3.0)).tolist()
    [0.0, 0.0, 4.0]
    """

    def run(params: PyTree, outputs: jax.Array, rows: jax.Array, *inputs: PyTree) -> jax.Array:
        taken = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"), inputs)
        results = fn(params, *taken)
        return outputs.at[rows].set(results.astype(outputs.dtype), mode="drop")

    return run


def routed(
    functions: Sequence[Callable[..., jax.Array]], *, sizes: Sequence[int]
) -> Callable[..., jax.Array]:
    """`run(params, chosen, *inputs)` -> the outputs, each example's by the function chosen for it.

    As `slim.dynamic.assign` chooses: functions of fewer layers for the easier texts. Those of one
    function are packed into static sizes. Not to be traced: how much is computed depends on
    `chosen`, which is read.

    Args:
        functions: `fn(params, *inputs) -> outputs (batch, ...)`, of one shape and type.
        sizes: of the packs. More of them: less padding, more programs.

    Raises:
        ValueError: no functions, no sizes, or one below 1; a choice of no function.

    >>> run = routed([lambda p, x: x + p, lambda p, x: x * p], sizes=(1, 2))
    >>> run(10.0, np.array([0, 1, 1]), jnp.arange(3.0)).tolist()
    [10.0, 10.0, 20.0]
    """
    check_sizes(sizes)
    if not functions:
        raise ValueError("functions is empty: give at least one")
    programs = [jax.jit(packed(fn)) for fn in functions]

    def run(params: PyTree, chosen: jax.Array | np.ndarray, *inputs: PyTree) -> jax.Array:
        choice = np.asarray(chosen)
        if not ((choice >= 0) & (choice < len(functions))).all():
            raise ValueError(
                f"chosen is from {choice.min()} to {choice.max()}, must be from 0 to "
                f"{len(functions) - 1}: an index into the {len(functions)} functions"
            )
        like = jax.eval_shape(functions[0], params, *inputs)
        outputs = jnp.zeros(like.shape, like.dtype)
        for i, program in enumerate(programs):
            for rows in packs(choice == i, sizes):
                outputs = program(params, outputs, rows, *inputs)
        return outputs

    return run


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise ValueError for no sizes of packs, or one below 1."""
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes is {tuple(sizes)}: give one or more, each at least 1")

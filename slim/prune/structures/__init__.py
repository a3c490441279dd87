"""Structures by name: which weights of a tensor are kept or removed together.

A structure is a function `(scores, keep, distribution) -> masks`, scores and masks by path; a new
one is such a function in this folder and its place in `STRUCTURES`. Whole channels, heads and
blocks are not masks over one tensor but cuts through many.
"""

from slim.prune.structures.block import block
from slim.prune.structures.contracted import contracted_axes
from slim.prune.structures.n_m import n_m
from slim.prune.structures.structure import Structure, unstructured

STRUCTURES: dict[str, Structure] = {
    "unstructured": unstructured,
    "1:4": n_m(1, 4),
    "2:4": n_m(2, 4),
    "4:8": n_m(4, 8),
    "block_4x4": block(4, 4),
    "block_16x16": block(16, 16),
}

__all__ = ["STRUCTURES", "Structure", "block", "contracted_axes", "n_m", "unstructured"]

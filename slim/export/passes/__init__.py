"""Program -> Program: each pass leaves what the program computes as it is, to rounding.

`full_integer` alone rounds, by grids, what was floats.
"""

from slim.export.passes.affine import fold_affine
from slim.export.passes.cleaning import fold_constants, simplify, without_dead
from slim.export.passes.common import merge_equal
from slim.export.passes.full_integer import full_integer
from slim.export.passes.matrices import matrix_kernels
from slim.export.passes.patterns import matched
from slim.export.program import Program

__all__ = [
    "fold_affine",
    "fold_constants",
    "full_integer",
    "matched",
    "matrix_kernels",
    "merge_equal",
    "simplify",
    "standard",
    "without_dead",
]


def standard(program: Program) -> Program:
    """All passes that every target wants."""
    return without_dead(fold_affine(matrix_kernels(merge_equal(simplify(fold_constants(program))))))

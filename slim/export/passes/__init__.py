"""Program -> Program: each pass leaves what the program computes as it is, to rounding.

`full_integer` alone rounds, by grids, what was floats.
"""

from slim.export.passes.cleaning import fold_constants, simplify, without_dead
from slim.export.passes.full_integer import full_integer
from slim.export.passes.matrices import matrix_kernels
from slim.export.program import Program

__all__ = [
    "fold_constants",
    "full_integer",
    "matrix_kernels",
    "simplify",
    "standard",
    "without_dead",
]


def standard(program: Program) -> Program:
    """All passes that every target wants."""
    return without_dead(matrix_kernels(simplify(fold_constants(program))))

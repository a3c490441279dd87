"""Program -> Program: each pass leaves what the program computes as it is, to rounding."""

from slim.export.passes.cleaning import fold_constants, simplify, without_dead
from slim.export.program import Program

__all__ = ["fold_constants", "simplify", "standard", "without_dead"]


def standard(program: Program) -> Program:
    """All passes that every target wants."""
    return without_dead(simplify(fold_constants(program)))

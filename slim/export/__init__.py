"""Models as files that run elsewhere.

made = passes.standard(program(fn, variables, x))   any function, as nodes and constants
files = stablehlo.write(made)                       for jax alone
TARGETS                                             where else
"""

from slim.export.program import Node, Program, Unsupported, program
from slim.export.targets import TARGETS, Target

__all__ = ["TARGETS", "Node", "Program", "Target", "Unsupported", "program"]

"""Operations that runtimes have kernels for, and JAX has as several primitives."""

from slim.export.patterns.pattern import Pattern
from slim.export.patterns.table import PATTERNS

__all__ = ["PATTERNS", "Pattern"]

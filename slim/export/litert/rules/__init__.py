"""How each node of a Program is said in TFLite's operators; a primitive is one line of a table."""

from slim.export.litert.lower import Rule
from slim.export.litert.rules import (
    contractions,
    elementwise,
    gathers,
    quantization,
    reductions,
    shapes,
)

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contractions.RULES,
    **shapes.RULES,
    **gathers.RULES,
    **reductions.RULES,
    **quantization.RULES,
}
"""By primitive, or by pattern of `slim.export.patterns`."""

"""The rules, by primitive; a family a file."""

from collections.abc import Mapping

from slim.export.onnx.lower import Rule
from slim.export.onnx.rules import (
    contractions,
    elementwise,
    gathers,
    quantization,
    reductions,
    shapes,
)

RULES: Mapping[str, Rule] = {
    **contractions.RULES,
    **elementwise.RULES,
    **gathers.RULES,
    **quantization.RULES,
    **reductions.RULES,
    **shapes.RULES,
}

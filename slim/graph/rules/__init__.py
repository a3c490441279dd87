"""The rules, one table: by primitive name, how it couples axes, and how it is resized.

A new primitive is one entry in the file of its kind. What is not in the table freezes every axis
that it touches, and says so.
"""

from collections.abc import Mapping

from slim.graph.rules import (
    contraction,
    control,
    custom,
    elementwise,
    indexing,
    random,
    ranges,
    reduction,
    shape,
    sharding,
)
from slim.graph.rules.removed import unknown
from slim.graph.rules.rule import Rule, unchanged

NO_RULE = Rule(control.no_rule_axes, unknown, unchanged)

RULES: Mapping[str, Rule] = {
    **elementwise.RULES,
    **shape.RULES,
    **ranges.RULES,
    **contraction.RULES,
    **reduction.RULES,
    **indexing.RULES,
    **random.RULES,
    **control.RULES,
    **custom.RULES,
    **sharding.RULES,
}


def rule_of(primitive: str) -> Rule:
    """The rule of a primitive; the one that freezes everything where there is none."""
    return RULES.get(primitive, NO_RULE)

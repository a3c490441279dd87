"""What a rule is: how one kind of primitive couples axes, treats removed entries, and resizes.

A rule has three parts, each a pure function of an equation and its context:

* `axes` gives the results' axes from the operands' and unifies or freezes what the operation
  couples (pass one, `slim.graph.infer`);
* `removed` says what the results hold at the indices that a plan may remove, given that every
  parameter is zero there, and freezes what would change a kept entry (pass two, `neutral`);
* `replay` performs the operation on small operands (pass three, `slim.graph.replay`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

from slim.graph.axes import Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed
from slim.graph.rules.scope import Resize, Step, bind

AxesRule = Callable[[Flow, JaxprEqn, list[Dims]], list[Dims]]
RemovedRule = Callable[[Removed, Step, list[Known]], list[Known]]
ReplayRule = Callable[[Resize, Step, list[Any]], list[Any]]


class Rule(NamedTuple):
    """The three readings of a primitive; see the module."""

    axes: AxesRule
    removed: RemovedRule
    replay: ReplayRule


def unchanged(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """The replay of a primitive whose parameters carry no sizes."""
    return bind(step.eqn, args)

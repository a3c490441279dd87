"""Pass two over a graph: where removing an entry would change what is kept.

The masked function is the original with every parameter zero at the removed indices; the small
function lacks those indices. The two are equal if a removed entry only ever meets

* a parameter of the same group, whose slice is gone too (or zero): nothing is left of it;
* a reduction that its value does not change: zero in a sum, minus infinity in a maximum.

So this pass carries, for every value, what its entries at removed indices are known to hold (a
number, folded through elementwise operations: zero through a ReLU, one half out of a sigmoid).
Where a reduction over them would lose anything else, a sum is corrected if it can be
(`slim.graph.remainder`), and otherwise the axis is frozen. Divisors that were sizes
(the n of a mean) are constants of the jaxpr and stay, which is what makes a mean over the small
axis equal to the masked one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jax.extend.core import Literal, Var

from slim.graph import axes
from slim.graph.axes import Axis
from slim.graph.infer import Inferred, constants, uniform
from slim.graph.remainder import correction
from slim.graph.rules import rule_of
from slim.graph.rules.removed import Known, Removed
from slim.graph.rules.scope import Scope


def freeze_losses(inferred: Inferred) -> None:
    """Freeze every atom whose removal would change a kept entry, each with its reason."""
    prunable = frozenset(
        leaf
        for dims in inferred.params.values()
        for axis in dims
        for leaf in axes.leaves(axis)
        if not leaf.reasons
    )
    zero = [
        Known(None, {(d, leaf): 0.0 for d, axis in enumerate(dims) for leaf in axes.leaves(axis)})
        for dims in inferred.params.values()
    ]
    data = len(inferred.scope.jaxpr.invars) - len(zero)
    _walk(inferred.scope, [*zero, *[Known()] * data], prunable)


def _walk(scope: Scope, ins: Sequence[Known], prunable: frozenset[Axis]) -> list[Known]:
    known: dict[Var, Known] = {var: Known(uniform(value)) for var, value in constants(scope)}
    known.update(zip(scope.jaxpr.invars, ins, strict=True))

    def read(operand: Any) -> Known:
        if isinstance(operand, Literal):
            return Known(uniform(np.asarray(operand.val)))
        return known[operand]

    for i, step in enumerate(scope.steps()):
        eqn = step.eqn
        removed = Removed(
            eqn,
            scope.callers,
            prunable,
            lambda inner, ins: _walk(inner, ins, prunable),
            partial(correction, scope, eqn, known),
        )
        results = rule_of(eqn.primitive.name).removed(removed, step, [read(v) for v in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
        scope.corrections[i] = removed.corrections
    return [read(var) for var in scope.jaxpr.outvars]

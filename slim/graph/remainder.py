"""What removed entries would have added to a sum, where it is not nothing.

At the removed indices of an atom every parameter is zero, so there a value is the same at every
such index: a number that is known, or a function of values that do not vary along the dimension.
Deviations from a mean are minus the mean, say, and a two-pass variance sums their squares. A sum
over such a dimension is corrected: the value at one removed index, computed from what is at hand,
times how many were removed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal, Var

from slim.graph import axes, primitives
from slim.graph.axes import Leaf
from slim.graph.rules.kept import Kept
from slim.graph.rules.removed import Known, Removed
from slim.graph.rules.scope import Correction, Scope, bind, shape_of


@dataclass(frozen=True)
class Number:
    """A number that is known."""

    value: float
    like: Any


@dataclass(frozen=True)
class Row:
    """A value that does not vary along the dimension; its first index there."""

    operand: Any
    dim: int | None


@dataclass(frozen=True)
class Apply:
    """An elementwise operation on remainders."""

    eqn: JaxprEqn
    operands: tuple["Remainder", ...]


Remainder = Number | Row | Apply


def correction(
    scope: Scope,
    eqn: JaxprEqn,
    known: Mapping[Var, Known],
    removed: Removed,
    dim: int,
    leaf: Leaf,
) -> Correction | None:
    """How to correct the sum `eqn` for removing indices of `leaf` along `dim`, if it can be.

    It cannot where indices are removed by two atoms at once (a product of both), where the atom
    lies along two dimensions, or where the removed entries are no function of what is at hand.
    """
    dims = scope.of(eqn.invars[0])
    holding = [term for term in axes.terms(dims[dim]) if leaf in axes.leaves(term)]
    if any(removed.alive(term) != [leaf] for term in holding):
        return None
    if any(leaf in axes.leaves(axis) for d, axis in enumerate(dims) if d != dim):
        return None
    makers = {var: each for each in scope.jaxpr.eqns for var in each.outvars}
    remainder = _resolve(eqn.invars[0], dim, leaf, known, makers)
    if remainder is None:
        return None

    def add(kept: Kept, read: Callable[[Any], Any], result: Any) -> Any:
        count = sum(term.size - kept.size(term) for term in holding)
        if not count:
            return result
        shape = [1 if d == dim else kept.size(axis) for d, axis in enumerate(dims)]
        entries = jnp.broadcast_to(_evaluate(remainder, read), shape)
        (more,) = bind(eqn, [entries])
        return result + more * jnp.asarray(count, result.dtype)

    return Correction(dim, add)


def _resolve(
    operand: Any,
    dim: int,
    leaf: Leaf,
    known: Mapping[Var, Known],
    makers: Mapping[Var, JaxprEqn],
) -> Remainder | None:
    """What `operand` holds at removed indices of `leaf` along `dim`."""
    if isinstance(operand, Literal) or not shape_of(operand) or shape_of(operand)[dim] == 1:
        return Row(operand, None)
    number = known[operand].get(dim, leaf)
    if number is not None:
        return Number(number, operand.aval) if math.isfinite(number) else None
    eqn = makers.get(operand)
    if eqn is None:
        return None
    if eqn.primitive.name == "broadcast_in_dim":
        source = dict(zip(eqn.params["broadcast_dimensions"], shape_of(eqn.invars[0]), strict=True))
        return Row(operand, dim) if source.get(dim, 1) == 1 else None
    if eqn.primitive.name not in primitives.ELEMENTWISE or len(eqn.outvars) != 1:
        return None
    parts = [_resolve(each, dim, leaf, known, makers) for each in eqn.invars]
    return Apply(eqn, tuple(p for p in parts if p is not None)) if all(parts) else None


def _evaluate(remainder: Remainder, read: Callable[[Any], Any]) -> Any:
    if isinstance(remainder, Number):
        rank = len(remainder.like.shape)
        return jnp.full((1,) * rank, remainder.value, remainder.like.dtype)
    if isinstance(remainder, Row):
        value = read(remainder.operand)
        dim = remainder.dim
        return value if dim is None else jax.lax.slice_in_dim(value, 0, 1, axis=dim)
    operands = [_evaluate(each, read) for each in remainder.operands]
    (result,) = bind(remainder.eqn, operands)
    return result

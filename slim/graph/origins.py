"""Which parameter a value comes from, through casts and changes of layout only."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal, Var

from slim.graph.inner import Inner
from slim.graph.primitives import names
from slim.graph.trace import Graph

LAYOUT = names(
    """
    bitcast_convert_type broadcast_in_dim convert_element_type copy copy_p expand_dims
    name optimization_barrier reduce_precision reshape rev slice squeeze stop_gradient
    sharding_constraint split transpose
    """
)
"""Primitives whose result is still the same parameter, laid out or rounded otherwise."""


class Origins:
    """The parameter path behind each value of one jaxpr, as far as it has been walked."""

    def __init__(self, known: dict[Var, str]) -> None:
        self._known = known

    @classmethod
    def of(cls, graph: Graph) -> "Origins":
        """The origins at the start of a graph: its parameters."""
        return cls(dict(zip(graph.jaxpr.jaxpr.invars, graph.param_shapes, strict=False)))

    def __getitem__(self, atom: Any) -> str | None:
        """The path of the parameter that `atom` is, or None."""
        return None if isinstance(atom, Literal) else self._known.get(atom)

    def feeding(self, eqn: JaxprEqn) -> tuple[str, ...]:
        """The paths of the parameters among an equation's operands."""
        found = (self[operand] for operand in eqn.invars)
        return tuple(dict.fromkeys(path for path in found if path is not None))

    def pass_on(self, eqn: JaxprEqn) -> None:
        """Carry the origin across an equation that only lays its operand out."""
        if eqn.primitive.name in LAYOUT:
            for operand, result in _pairs(eqn.invars, eqn.outvars):
                if (path := self[operand]) is not None:
                    self._known[result] = path

    def enter(self, eqn: JaxprEqn, inner: Inner) -> "Origins":
        """The origins at the start of a jaxpr inside `eqn`."""
        feeding = (self[eqn.invars[i]] for i in inner.operands)
        return Origins(
            {
                var: path
                for var, path in zip(inner.jaxpr.invars, feeding, strict=True)
                if path is not None
            }
        )

    def leave(self, eqn: JaxprEqn, inner: Inner, inside: "Origins") -> None:
        """Carry the origins of a called jaxpr's results to `eqn`'s."""
        for result, var in zip(eqn.outvars, inner.jaxpr.outvars, strict=True):
            if (path := inside[var]) is not None:
                self._known[result] = path


def _pairs(operands: Sequence[Any], results: Sequence[Var]) -> list[tuple[Any, Var]]:
    if len(operands) == len(results):
        return list(zip(operands, results, strict=True))
    return [(operands[0], result) for result in results]

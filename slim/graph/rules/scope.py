"""A walked jaxpr: the axes of its values, and its equations with theirs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from slim.graph import axes
from slim.graph.axes import Dims
from slim.graph.rules.kept import Kept
from slim.graph.trace import source_line


class Correction(NamedTuple):
    """How to make up, in the result of a sum, for what removed entries would have added.

    Attributes:
        dim: the dimension of the operand that is corrected for.
        add: the corrected result from what is kept, the values at hand and the small result.
    """

    dim: int
    add: Callable[[Kept, Callable[[Any], Any], Any], Any]


@dataclass
class Scope:
    """The axes of one run of one jaxpr.

    Attributes:
        jaxpr: the jaxpr.
        consts: the values of its `constvars`.
        dims: the axes of each variable.
        inner: by equation index, the scopes of the jaxprs inside that equation.
        callers: the equations that it is nested in, inside out.
        corrections: by equation index, what pass two found to make up for.
    """

    jaxpr: Jaxpr
    consts: tuple[Any, ...]
    callers: tuple[JaxprEqn, ...] = ()
    dims: dict[Var, Dims] = field(default_factory=dict)
    inner: dict[int, tuple["Scope", ...]] = field(default_factory=dict)
    corrections: dict[int, tuple[Correction, ...]] = field(default_factory=dict)

    def of(self, operand: Any) -> Dims:
        """The axes of an operand; fresh ones for a literal."""
        if isinstance(operand, Literal):
            return fresh(np.shape(operand.val))
        return self.dims[operand]

    @property
    def outs(self) -> list[Dims]:
        """The axes of the jaxpr's outputs."""
        return [self.of(var) for var in self.jaxpr.outvars]

    def steps(self) -> Iterator["Step"]:
        """Its equations in order."""
        for i, eqn in enumerate(self.jaxpr.eqns):
            ins, outs = ([self.of(var) for var in each] for each in (eqn.invars, eqn.outvars))
            yield Step(eqn, ins, outs, self.inner.get(i, ()))


class Step(NamedTuple):
    """An equation with its operands' and results' axes and the scopes inside it."""

    eqn: JaxprEqn
    ins: list[Dims]
    outs: list[Dims]
    inner: tuple[Scope, ...]

    @property
    def params(self) -> dict[str, Any]:
        """The equation's parameters."""
        return self.eqn.params


class Resize(NamedTuple):
    """Pass three: what a plan keeps, and how to run a jaxpr inside an equation."""

    kept: Kept
    run: Callable[[Scope, Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class Reason:
    """Why an equation freezes an axis."""

    eqn: JaxprEqn
    text: str
    callers: tuple[JaxprEqn, ...]

    def __call__(self) -> str:
        """The reason with the primitive and the line of user code that made it."""
        return f"{self.eqn.primitive.name} at {source_line(self.eqn, self.callers)}: {self.text}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reason) and (self.eqn, self.text) == (other.eqn, other.text)

    def __hash__(self) -> int:
        return hash((id(self.eqn), self.text))


def fresh(shape: Sequence[int]) -> Dims:
    """Fresh atoms of the sizes of `shape`."""
    return tuple(axes.atom(size) for size in shape)


def shape_of(var: Any) -> tuple[int, ...]:
    """The shape of a variable or literal; () for what has none."""
    return tuple(getattr(var.aval, "shape", ()))


def bind(eqn: JaxprEqn, args: Sequence[Any], **changes: Any) -> list[Any]:
    """Run an equation's primitive on `args`, with some of its parameters changed."""
    params = eqn.primitive.get_bind_params({**eqn.params, **changes})
    result = eqn.primitive.bind(*args, **params)
    return list(result) if eqn.primitive.multiple_results else [result]

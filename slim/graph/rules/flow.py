"""What a rule of pass one gets: unify and freeze in an equation's name."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn

from slim.graph import axes
from slim.graph.axes import Axis, Dims
from slim.graph.rules.scope import Reason, Scope


class Flow:
    """Pass one at one equation: unifies and freezes in its name, and enters its inner jaxprs."""

    def __init__(
        self,
        eqn: JaxprEqn,
        callers: tuple[JaxprEqn, ...],
        enter: Callable[..., Scope],
        derivatives: bool,
    ) -> None:
        self.eqn = eqn
        self.callers = callers
        self.derivatives = derivatives
        self.scopes: list[Scope] = []
        self._enter = enter

    def why(self, text: str) -> Callable[[], str]:
        """A reason for freezing, formatted only when it is read."""
        return Reason(self.eqn, text, self.callers)

    def unify(self, a: Axis, b: Axis) -> None:
        """Make two axes one."""
        axes.unify(a, b, self.why("its operands' axes have no common refinement"))

    def unify_all(self, some: Iterable[Axis], others: Iterable[Axis]) -> None:
        """Make the axes of two values one, in order."""
        for a, b in zip(some, others, strict=True):
            self.unify(a, b)

    def freeze(self, some: Iterable[Axis], text: str) -> None:
        """Forbid removing any index of some axes."""
        for axis in some:
            axes.freeze(axis, self.why(text))

    def frozen(self, size: int, text: str) -> Axis:
        """A fresh frozen axis."""
        axis = axes.atom(size)
        self.freeze([axis], text)
        return axis

    def enter(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        ins: Sequence[Dims],
        *,
        derivative: bool = False,
    ) -> list[Dims]:
        """Walk a jaxpr inside the equation (a derivative's without derivatives of its own)."""
        scope = self._enter(jaxpr, consts, ins, derivatives=self.derivatives and not derivative)
        self.scopes.append(scope)
        return scope.outs

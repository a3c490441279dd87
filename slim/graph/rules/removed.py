"""What a rule of pass two gets: what values hold at the indices that a plan may remove."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jax.extend.core import JaxprEqn

from slim.graph import axes
from slim.graph.axes import Axis, Dims, Leaf
from slim.graph.rules.scope import Correction, Reason, Scope, Step


class Known(NamedTuple):
    """What a value is known to hold.

    Attributes:
        everywhere: the number that every entry is, or None.
        at: by dimension and atom, the number that every entry is whose index along that
            dimension a plan removes from that atom. A pair that is not there is unknown.
    """

    everywhere: float | None = None
    at: Mapping[tuple[int, Leaf], float] = {}

    def get(self, dim: int, leaf: Leaf) -> float | None:
        """The number at removed indices of `leaf` along `dim`, or None where unknown."""
        return self.everywhere if self.everywhere is not None else self.at.get((dim, leaf))


UNKNOWN = Known()


class Removed:
    """Pass two at one equation: which atoms may still be cut, and how to forbid it."""

    def __init__(
        self,
        eqn: JaxprEqn,
        callers: tuple[JaxprEqn, ...],
        prunable: frozenset[Leaf],
        enter: Callable[[Scope, Sequence[Known]], list[Known]],
        correct: Callable[["Removed", int, Leaf], Correction | None],
    ) -> None:
        self.eqn = eqn
        self.callers = callers
        self.enter = enter
        self.corrections: tuple[Correction, ...] = ()
        self._prunable = prunable
        self._correct = correct

    def alive(self, axis: Axis) -> list[Leaf]:
        """The atoms of `axis` that a plan may cut, each once."""
        return [
            leaf
            for leaf in dict.fromkeys(axes.leaves(axis))
            if leaf in self._prunable and not leaf.reasons
        ]

    def places(self, dims: Dims) -> list[tuple[int, Leaf]]:
        """The (dimension, atom) pairs of a value that a plan may cut."""
        return [(d, leaf) for d, axis in enumerate(dims) for leaf in self.alive(axis)]

    def correct(self, dim: int, leaf: Leaf) -> bool:
        """Have the equation, a sum, corrected for removing `leaf` along `dim`, if that can be."""
        if any(other.dim != dim for other in self.corrections):
            return False
        found = self._correct(self, dim, leaf)
        if found is not None:
            self.corrections += (found,)
        return found is not None

    def forbid(self, leaf: Leaf, text: str) -> None:
        """Freeze an atom because its removal would change kept entries."""
        axes.freeze(leaf, Reason(self.eqn, text, self.callers))


def unknown(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Nothing is known of any result."""
    return [UNKNOWN for _ in step.outs]


def agreed(values: Iterable[float | None]) -> float | None:
    """The one number that all of `values` are; None where they differ or one is unknown."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def carry(removed: Removed, dims: Dims, operands: Sequence[tuple[Known, Dims]]) -> Known:
    """What is known of a value whose entries are copies of the operands' entries.

    At removed indices of an atom the value is known where every operand is: at that atom's
    indices, wherever it occurs in the operand; anywhere, where it does not occur.
    """
    at = {}
    for d, leaf in removed.places(dims):
        values: list[float | None] = []
        for known, operand in operands:
            found = [i for i, axis in enumerate(operand) if leaf in axes.leaves(axis)]
            values += [known.get(i, leaf) for i in found] or [known.everywhere]
        value = agreed(values)
        if value is not None:
            at[d, leaf] = value
    return Known(agreed(known.everywhere for known, _ in operands), at)


def carried(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """`carry` for every result, from every operand."""
    return [carry(removed, dims, list(zip(known, step.ins, strict=True))) for dims in step.outs]


def only_zero(known: Known) -> Known:
    """What is left of `known` behind an operation that keeps zeros and nothing else."""
    everywhere = known.everywhere if known.everywhere == 0 else None
    return Known(everywhere, {place: value for place, value in known.at.items() if value == 0})

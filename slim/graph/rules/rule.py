"""What a rule is: how one kind of primitive couples axes, treats removed entries, and resizes.

A rule has three parts, each a pure function of an equation and its context:

* `axes` gives the results' axes from the operands' and unifies or freezes what the operation
  couples (pass one, `slim.graph.infer`);
* `removed` says what the results hold at the indices that a plan may remove, given that every
  parameter is zero there, and freezes what would change a kept entry (pass two, `neutral`);
* `replay` performs the operation on small operands (pass three, `slim.graph.replay`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from slim.graph import axes
from slim.graph.axes import Axis
from slim.graph.trace import source_line

Dims = tuple[Axis, ...]
Leaf = Axis


class Correction(NamedTuple):
    """How to make up, in the result of a sum, for what removed entries would have added.

    Attributes:
        dim: the dimension of the operand that is corrected for.
        add: the corrected result from what is kept, the values at hand and the small result.
    """

    dim: int
    add: Callable[["Kept", Callable[[Any], Any], Any], Any]


@dataclass
class Scope:
    """The axes of one run of one jaxpr.

    Attributes:
        jaxpr: the jaxpr.
        consts: the values of its `constvars`.
        dims: the axes of each variable.
        inner: by equation index, the scopes of the jaxprs inside that equation.
        corrections: by equation index, what pass two found to make up for.
    """

    jaxpr: Jaxpr
    consts: tuple[Any, ...]
    dims: dict[Var, Dims] = field(default_factory=dict)
    inner: dict[int, tuple["Scope", ...]] = field(default_factory=dict)
    corrections: dict[int, tuple[Correction, ...]] = field(default_factory=dict)

    def of(self, operand: Any) -> Dims:
        """The axes of an operand; fresh ones for a literal."""
        if isinstance(operand, Literal):
            return fresh(np.shape(operand.val))
        return self.dims[operand]

    @property
    def ins(self) -> list[Dims]:
        """The axes of the jaxpr's inputs."""
        return [self.dims[var] for var in self.jaxpr.invars]

    @property
    def outs(self) -> list[Dims]:
        """The axes of the jaxpr's outputs."""
        return [self.of(var) for var in self.jaxpr.outvars]


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


class Flow:
    """Pass one at one equation: unifies and freezes in its name, and enters its inner jaxprs."""

    def __init__(
        self,
        eqn: JaxprEqn,
        enter: Callable[[Jaxpr, Sequence[Any], Sequence[Dims]], Scope],
        derivatives: bool,
    ) -> None:
        self.eqn = eqn
        self.derivatives = derivatives
        self.scopes: list[Scope] = []
        self._enter = enter

    def why(self, text: str) -> Callable[[], str]:
        """A reason for freezing, formatted only when it is read."""
        return Reason(self.eqn, text)

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

    def enter(self, jaxpr: Jaxpr, consts: Sequence[Any], ins: Sequence[Dims]) -> list[Dims]:
        """Walk a jaxpr inside the equation; its outputs' axes."""
        scope = self._enter(jaxpr, consts, ins)
        self.scopes.append(scope)
        return scope.outs


@dataclass(frozen=True)
class Reason:
    """Why an equation freezes an axis."""

    eqn: JaxprEqn
    text: str

    def __call__(self) -> str:
        """The reason with the primitive and the line of user code that made it."""
        return f"{self.eqn.primitive.name} at {source_line(self.eqn)}: {self.text}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reason) and (self.eqn, self.text) == (other.eqn, other.text)

    def __hash__(self) -> int:
        return hash((id(self.eqn), self.text))


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
        prunable: frozenset[Leaf],
        enter: Callable[[Scope, Sequence[Known]], list[Known]],
        correct: Callable[["Removed", int, Leaf], Correction | None],
    ) -> None:
        self.eqn = eqn
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
        axes.freeze(leaf, Reason(self.eqn, text))


class Kept:
    """Which indices of each axis a plan keeps."""

    def __init__(self, of_leaf: Mapping[Leaf, np.ndarray]) -> None:
        self._of_leaf = of_leaf
        self._cache: dict[Axis, np.ndarray | None] = {}

    def __call__(self, axis: Axis) -> np.ndarray | None:
        """The kept indices of `axis`, ascending; None where all are kept."""
        axis = axis.find()
        if axis not in self._cache:
            self._cache[axis] = self._compute(axis)
        return self._cache[axis]

    def _compute(self, axis: Axis) -> np.ndarray | None:
        if axis.kind == "atom":
            return self._of_leaf.get(axis)
        parts = [self(part) for part in axis.parts]
        if all(part is None for part in parts):
            return None
        full = [
            np.arange(part.size) if kept is None else kept
            for part, kept in zip(axis.parts, parts, strict=True)
        ]
        if axis.kind == "sum":
            starts = np.cumsum([0] + [part.size for part in axis.parts[:-1]])
            return np.concatenate([start + kept for start, kept in zip(starts, full, strict=True)])
        out = full[0]
        for part, kept in zip(axis.parts[1:], full[1:], strict=True):
            out = (out[:, None] * part.size + kept).reshape(-1)
        return out

    def size(self, axis: Axis) -> int:
        """How many indices of `axis` are kept."""
        kept = self(axis)
        return axis.find().size if kept is None else len(kept)

    def shape(self, dims: Dims) -> tuple[int, ...]:
        """The shape of a value of these axes after the cut."""
        return tuple(self.size(axis) for axis in dims)

    def below(self, axis: Axis, index: int) -> int:
        """How many of the first `index` indices of `axis` are kept."""
        kept = self(axis)
        return index if kept is None else int(np.searchsorted(kept, index))

    def cuts(self, dims: Dims) -> bool:
        """Whether a value of these axes loses any entry."""
        return any(self(axis) is not None for axis in dims)


class Resize(NamedTuple):
    """Pass three: what a plan keeps, and how to run a jaxpr inside an equation."""

    kept: Kept
    run: Callable[[Scope, Sequence[Any]], list[Any]]


AxesRule = Callable[[Flow, JaxprEqn, list[Dims]], list[Dims]]
RemovedRule = Callable[[Removed, Step, list[Known]], list[Known]]
ReplayRule = Callable[[Resize, Step, list[Any]], list[Any]]


class Rule(NamedTuple):
    """The three readings of a primitive; see the module."""

    axes: AxesRule
    removed: RemovedRule
    replay: ReplayRule


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


def unchanged(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """The replay of a primitive whose parameters carry no sizes."""
    return bind(step.eqn, args)


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

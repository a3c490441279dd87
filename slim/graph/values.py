"""Every value of a graph, under a number of its own: what made it, and where it can be had.

Calls are opened as in `slim.graph.flat`, and the bodies of scans too, where a value is that of one
round. `while` loops, branches and `shard_map`s stay closed. To search a program, not to run it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from slim.graph.cost import CONTRACTIONS
from slim.graph.flat import Address, Operand, Step
from slim.graph.inner import CALLS, inner_jaxprs, scan_split
from slim.graph.trace import Graph


class Place(NamedTuple):
    """Where a value can be had: a result of an equation, or one of its operands.

    Attributes:
        address: of the equation, as in `Site.address`.
        is_operand: whether it is an operand.
        which: its index there.
    """

    address: Address
    is_operand: bool
    which: int


class Round(NamedTuple):
    """A value that a scan carries from round to round: before a round, after it, after the last."""

    before: int
    after: Operand
    last: int


@dataclass
class Values:
    """The values of a graph.

    Attributes:
        params: the paths of the parameters, whose numbers are the first.
        steps: the equations, by address, in program order.
        callers: by address, of calls and scans too, the equations that one is nested in, inside
            out.
        avals: by number, its shape and type.
        places: by number, of the places with that value the one that is nested least.
        sources: by number, the set of the values that it is made of, itself included, as bits.
        activations: the set of what is not made of parameters and constants alone, and of the
            results of contractions.
        producers: by number, the step whose result it is.
        readers: by number, the steps that read it.
        rounds: what scans carry, inner scans first.
    """

    params: tuple[str, ...]
    steps: dict[Address, Step] = field(default_factory=dict)
    callers: dict[Address, tuple[JaxprEqn, ...]] = field(default_factory=dict)
    avals: list[Any] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    sources: list[int] = field(default_factory=list)
    activations: int = 0
    producers: dict[int, Step] = field(default_factory=dict)
    readers: dict[int, list[Step]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)

    @classmethod
    def of(cls, graph: Graph) -> "Values":
        """The values of a graph."""
        values = cls(tuple(graph.param_shapes))
        jaxpr = graph.jaxpr.jaxpr
        inputs = [values._new(var) for var in jaxpr.invars]
        values.activations = sum(1 << number for number in inputs[len(values.params) :])
        values._walk(jaxpr, inputs, (), ())
        return values

    def made_of(self, operand: Operand, source: int) -> bool:
        """Whether a value is made of another, or is it."""
        return isinstance(operand, int) and bool(self.sources[operand] >> source & 1)

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a value, in one round of the scans around it."""
        return tuple(self.avals[number].shape)

    def is_activation(self, operand: Operand) -> bool:
        """Whether a value is made of data, or of a contraction's result."""
        return isinstance(operand, int) and bool(self.sources[operand] & self.activations)

    def feeding(self, step: Step) -> str | None:
        """The first parameter of a contraction's operand that is made of parameters alone.

        Where both are, of the second: kernels are on the right.
        """
        for operand in step.ins[1::-1]:
            if isinstance(operand, int) and not self.is_activation(operand):
                own = self.sources[operand] & ((1 << len(self.params)) - 1)
                if own:
                    return self.params[(own & -own).bit_length() - 1]
        return None

    def contractions(self) -> Iterator[Step]:
        """The contractions, in program order."""
        return (step for step in self.steps.values() if step.eqn.primitive.name in CONTRACTIONS)

    def before(
        self, start: Operand, through: Callable[[Step], bool], goal: Callable[[Step], bool]
    ) -> Step | None:
        """The nearest step towards `start` that is a goal, with only `through` after it."""
        return _nearest(
            [start], lambda number: [self.producers.get(number)], lambda s: s.ins, through, goal
        )

    def after(
        self, start: int, through: Callable[[Step], bool], goal: Callable[[Step], bool]
    ) -> Step | None:
        """The nearest step from `start` that is a goal, with only `through` before it."""
        return _nearest(
            [start], lambda number: self.readers.get(number, []), lambda s: s.outs, through, goal
        )

    def _new(self, var: Any, made_of: Sequence[Operand] = ()) -> int:
        number, bits = len(self.sources), 1 << len(self.sources)
        for operand in made_of:
            if isinstance(operand, int):
                bits |= self.sources[operand]
        self.sources.append(bits)
        self.avals.append(var.aval)
        return number

    def _seen(self, operands: Sequence[Operand], address: Address, is_operand: bool) -> None:
        for index, number in enumerate(operands):
            if isinstance(number, int):
                old = self.places.get(number)
                if old is None or len(address) < len(old.address):
                    self.places[number] = Place(address, is_operand, index)

    def _walk(
        self,
        jaxpr: Jaxpr,
        args: Sequence[Operand],
        prefix: Address,
        callers: tuple[JaxprEqn, ...],
    ) -> list[Operand]:
        numbers: dict[Any, Operand] = dict(zip(jaxpr.invars, args, strict=True))
        numbers.update((var, self._new(var)) for var in jaxpr.constvars)

        def read(operand: Any) -> Operand:
            return operand if isinstance(operand, Literal) else numbers[operand]

        for i, eqn in enumerate(jaxpr.eqns):
            address, ins = (*prefix, i), [read(operand) for operand in eqn.invars]
            outs = self._equation(eqn, ins, address, callers)
            self._seen(outs, address, False)
            self._seen(ins, address, True)
            numbers.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def _equation(
        self, eqn: JaxprEqn, ins: list[Operand], address: Address, callers: tuple[JaxprEqn, ...]
    ) -> Sequence[Operand]:
        name, self.callers[address] = eqn.primitive.name, callers
        if name in CALLS or name == "scan":
            (inner,) = inner_jaxprs(eqn)
            nested = (*address, 0), (eqn, *callers)
            if name in CALLS:
                return self._walk(inner.jaxpr, ins, *nested)
            constants, carried, _ = scan_split(eqn)
            entering = zip(inner.jaxpr.invars[constants:], ins[constants:], strict=True)
            own = [self._new(var, [operand]) for var, operand in entering]
            ends = self._walk(inner.jaxpr, [*ins[:constants], *own], *nested)
            outs = [self._new(var, [end]) for var, end in zip(eqn.outvars, ends, strict=True)]
            self.rounds += map(Round, own[:carried], ends, outs)
            return outs
        outs = [self._new(var, ins) for var in eqn.outvars]
        step = Step(eqn, tuple(ins), tuple(outs), address)
        self.steps[address] = step
        if name in CONTRACTIONS:
            self.activations |= sum(1 << number for number in outs)
        for number in outs:
            self.producers[number] = step
        for operand in ins:
            if isinstance(operand, int):
                self.readers.setdefault(operand, []).append(step)
        return outs


def loops(callers: Sequence[JaxprEqn]) -> tuple[int, ...]:
    """The lengths of the scans among the equations that one is nested in, outermost first."""
    return tuple(int(eqn.params["length"]) for eqn in callers[::-1] if eqn.primitive.name == "scan")


def _nearest(
    queue: list[Operand],
    steps: Callable[[int], Sequence[Step | None]],
    more: Callable[[Step], Sequence[Operand]],
    through: Callable[[Step], bool],
    goal: Callable[[Step], bool],
) -> Step | None:
    seen: set[int] = set()
    for operand in queue:  # which grows
        if not isinstance(operand, int) or operand in seen:
            continue
        seen.add(operand)
        for step in steps(operand):
            if step is None:
                continue
            if goal(step):
                return step
            if through(step):
                queue.extend(more(step))
    return None

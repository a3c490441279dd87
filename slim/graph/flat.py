"""A graph as one list of steps: calls opened, every value under a number of its own.

One jaxpr may be called at several places; here each call has its own steps and values, so that
a value can be followed forwards and backwards across calls. Loops and branches stay closed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from slim.graph.inner import CALLS, inner_jaxprs
from slim.graph.rules.scope import bind
from slim.graph.trace import Graph, as_written

Address = tuple[int, ...]
Operand = int | Literal


class Step(NamedTuple):
    """One equation.

    Attributes:
        eqn: the equation.
        ins: its operands: numbers of values, or literals.
        outs: the numbers of its results.
        address: where it is, as in `Site.address`.
    """

    eqn: JaxprEqn
    ins: tuple[Operand, ...]
    outs: tuple[int, ...]
    address: Address


@dataclass(frozen=True)
class Flat:
    """A program.

    Attributes:
        steps: in an order in which they can run.
        consts: the values of constants, by number.
        inputs: the numbers of the jaxpr's inputs.
        outputs: its outputs.
        calls: the operands and the results of the calls that are opened, by address.
    """

    steps: tuple[Step, ...]
    consts: Mapping[int, Any]
    inputs: tuple[int, ...]
    outputs: tuple[Operand, ...]
    calls: Mapping[Address, tuple[Sequence[Operand], Sequence[Operand]]]


def flatten(graph: Graph, opened: Callable[[Address], bool] = lambda address: True) -> Flat:
    """The program of a graph, with the calls opened whose address `opened` accepts."""
    steps: list[Step] = []
    consts: dict[int, Any] = {}
    calls: dict[Address, tuple[Sequence[Operand], Sequence[Operand]]] = {}
    count = 0

    def fresh(number: int) -> tuple[int, ...]:
        nonlocal count
        count += number
        return tuple(range(count - number, count))

    def walk(
        jaxpr: Jaxpr, values: Sequence[Any], args: Sequence[Operand], prefix: Address
    ) -> list[Operand]:
        numbers: dict[Any, Operand] = dict(zip(jaxpr.invars, args, strict=True))
        own = fresh(len(jaxpr.constvars))
        consts.update(zip(own, values, strict=True))
        numbers.update(zip(jaxpr.constvars, own, strict=True))

        def read(operand: Any) -> Operand:
            return operand if isinstance(operand, Literal) else numbers[operand]

        for i, eqn in enumerate(jaxpr.eqns):
            address, ins = (*prefix, i), [read(operand) for operand in eqn.invars]
            if eqn.primitive.name in CALLS and opened(address):
                (inner,) = inner_jaxprs(eqn)
                outs: Sequence[Operand] = walk(inner.jaxpr, inner.consts, ins, (*address, 0))
                calls[address] = ins, outs
            else:
                made = outs = fresh(len(eqn.outvars))
                steps.append(Step(eqn, tuple(ins), made, address))
            numbers.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars]

    jaxpr = graph.jaxpr
    inputs = fresh(len(jaxpr.jaxpr.invars))
    outputs = walk(jaxpr.jaxpr, jaxpr.consts, inputs, ())
    return Flat(tuple(steps), consts, inputs, tuple(outputs), calls)


def needed(steps: Sequence[Step], wanted: Iterable[Operand]) -> tuple[tuple[Step, ...], set[int]]:
    """The steps that `wanted` needs, or that have an effect, and the values that are read."""
    read = {operand for operand in wanted if isinstance(operand, int)}
    kept = []
    for step in reversed(steps):
        if step.eqn.effects or not read.isdisjoint(step.outs):
            kept.append(step)
            read.update(operand for operand in step.ins if isinstance(operand, int))
    return tuple(kept[::-1]), read


def run(
    steps: Iterable[Step],
    values: dict[int, Any],
    instead: Mapping[Address, Callable[[Step, list[Any]], Sequence[Any]]] | None = None,
) -> None:
    """Add the steps' results to `values`; those at an address in `instead` are computed by that."""
    compute = instead or {}
    for step in steps:
        operands = [read(operand, values) for operand in step.ins]
        with as_written(step.eqn):
            outs = compute.get(step.address, _as_it_is)(step, operands)
        values.update(zip(step.outs, outs, strict=True))


def read(operand: Operand, values: Mapping[int, Any]) -> Any:
    """The value of an operand."""
    return operand.val if isinstance(operand, Literal) else values[operand]


def _as_it_is(step: Step, operands: list[Any]) -> list[Any]:
    return bind(step.eqn, operands)

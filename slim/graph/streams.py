"""Residual streams: what enters their blocks, and what is left at their ends.

A block is an addition `x + f(x)` whose branch f has a contraction with a parameter. What enters
the next block may be the sum itself (normalization before the branch), or something of it: its
normalization, its ReLU. The end of a stream is the same of the last sum.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slim.graph.flat import Operand, Step
from slim.graph.values import Values


class Block(NamedTuple):
    """One block.

    Attributes:
        name: the path of the first parameter, in the order of the parameters, that a contraction
            of its branch has; it may be that of another block too.
        enters: the value that enters it.
        result: the sum.
        first: the first contraction of its branch.
        last: the addition.
    """

    name: str
    enters: int
    result: int
    first: Step
    last: Step


def blocks(values: Values) -> list[Block]:
    """The residual blocks of a graph in program order."""
    order = {path: i for i, path in enumerate(values.params)}
    fed = {step.outs[0]: path for step in values.contractions() if (path := values.feeding(step))}
    found = []
    for step in values.steps.values():
        if step.eqn.primitive.name not in ("add", "add_any"):
            continue
        for operand, branch in (step.ins, step.ins[::-1]):
            skip = _shared(values, operand, branch)
            if skip is None or values.shape(skip) != values.shape(step.outs[0]):
                continue
            inside = [
                number
                for number in fed
                if number != skip
                and values.made_of(number, skip)
                and values.made_of(branch, number)
            ]
            if inside:
                name = min((fed[number] for number in inside), key=order.__getitem__)
                first = values.producers[inside[0]]
                found.append(Block(name, skip, step.outs[0], first, step))
                break
    return found


def _shared(values: Values, operand: Operand, branch: Operand) -> int | None:
    """The activation that a sum's operand is, or is a cast of, and that its branch is made of."""
    while isinstance(operand, int) and values.is_activation(operand):
        if values.made_of(branch, operand):
            return operand
        step = values.producers.get(operand)
        if step is None or step.eqn.primitive.name != "convert_element_type":
            break
        (operand,) = step.ins
    return None


def ends(values: Values, every: Sequence[Block]) -> Iterator[tuple[Block, int]]:
    """The last blocks of streams, each with the value at the end: of a scan's stream, after it."""
    changes: dict[Block, tuple[str, ...]] = {}
    for block in every:
        following = [other for other in every if values.made_of(other.enters, block.result)]
        around = [
            each
            for each in values.rounds
            if values.made_of(each.after, block.result)
            and any(values.made_of(other.enters, each.before) for other in every)
        ]
        if following:
            changes[block] = _path(values, block.result, following[0].enters)
        elif around:
            yield block, around[-1].last
        else:
            past = [other for other in changes if values.made_of(block.enters, other.result)]
            yield block, _end(values, block, changes[past[-1]] if past else ())


def _end(values: Values, block: Block, change: tuple[str, ...]) -> int:
    """The value that is made of a block's sum by the primitives `change`; else the sum."""
    alike = (
        number
        for step in values.steps.values()
        for number in step.outs
        if values.made_of(number, block.result)
        and values.shape(number) == values.shape(block.result)
        and _path(values, block.result, number) == change
    )
    return next(alike, block.result)


def _path(values: Values, start: int, end: int) -> tuple[str, ...]:
    """The primitives between two values, in program order."""
    return tuple(
        step.eqn.primitive.name
        for step in values.steps.values()
        for number in step.outs
        if number != start and values.made_of(number, start) and values.made_of(end, number)
    )

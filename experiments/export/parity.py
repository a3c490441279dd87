"""How near an artefact's outputs are to JAX's, and where they begin to differ."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from slim.export.program import Node, Program

Outputs = Mapping[str, np.ndarray]

TINY = float(np.finfo(np.float32).tiny)

VALUE = "value"
"""What the one output of a shortened program is called."""


class Limits(NamedTuple):
    """What an artefact may differ by.

    Attributes:
        error: the greatest difference, as a share of the greatest absolute logit.
        agreement: the least share of the examples that get the same label.
    """

    error: float
    agreement: float


LIMITS: Mapping[str, Limits] = {
    "float32": Limits(1e-4, 0.99),
    "float16": Limits(2e-2, 0.98),
    "int8": Limits(0.2, 0.95),
    "int4": Limits(0.2, 0.95),
    "dynamic_range": Limits(0.2, 0.95),
}
"""By precision. Measured by `experiments.bench.export` of random inputs, as the greatest error over
the greatest logit: float32 to 1.1e-6, so that 1e-4 is a wrong operation and no order of sums; int8
to 0.02 of trained convolutions and to 0.17 of MiniLM with all its activations in int8. Integers are
the same steps in JAX and elsewhere, but for what lies between two of them to float rounding, and
for what `full_integer` rounds besides: a step more at one site is one more, at most, at each behind
it, and sites are many. What a wrong operation gives is off by the size of the logits themselves; so
the 0.2, and float16's limit, are margins."""


class Parity(NamedTuple):
    """Outputs beside those that are expected.

    Attributes:
        max_error: the greatest absolute difference.
        mean_error: the mean absolute difference.
        largest: the greatest absolute value that is expected.
        agreement: share of equal labels, those of the largest of the last dimension.
    """

    max_error: float
    mean_error: float
    largest: float
    agreement: float

    def within(self, limits: Limits) -> bool:
        """Whether it may pass; what is not finite may not."""
        return self.max_error <= limits.error * self.largest and self.agreement >= limits.agreement


def compare(found: np.ndarray, expected: np.ndarray) -> Parity:
    """The differences of logits of any shape.

    >>> compare(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    Parity(max_error=2.0, mean_error=1.0, largest=4.0, agreement=1.0)
    """
    if found.shape != expected.shape:
        return Parity(math.inf, math.inf, float(np.abs(expected).max()), 0.0)
    errors = np.abs(found.astype(np.float64) - expected)
    return Parity(
        float(errors.max()),
        float(errors.mean()),
        float(np.abs(expected).max()),
        float((found.argmax(-1) == expected.argmax(-1)).mean()),
    )


def first_difference(
    program: Program, inputs: Outputs, run: Callable[[Program], Outputs], error: float
) -> Node | None:
    """The first node, in program order, whose value an artefact has otherwise than JAX.

    Found by halving: of a program that ends at a node, its one output called `VALUE`, an artefact
    is made and run. So each node is judged by what the target makes of it with nothing behind it.

    Args:
        program: whose artefact differs.
        inputs: by name.
        run: a shortened program -> the outputs of its artefact for `inputs`.
        error: the difference that begins to count, as a share of the greatest absolute value.

    Returns:
        None where every node is as in JAX, the last too: what is behind it makes the difference.
    """
    given = [inputs[name] for name, _ in program.inputs]
    places = [place for place, node in enumerate(program.nodes) if _is_float(program, node)]

    def differs(place: int) -> bool:
        value = program.nodes[place].outs[0]
        short = dataclasses.replace(
            program, nodes=program.nodes[: place + 1], outputs=((VALUE, value),)
        )
        (expected,) = program.values([value], *given)
        found = run(short)[VALUE]
        parity = compare(np.atleast_1d(found), np.atleast_1d(np.asarray(expected)))
        return not parity.max_error <= error * max(parity.largest, TINY)

    good, bad = -1, len(places)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if differs(places[middle]) else (middle, bad)
    return program.nodes[places[bad]] if bad < len(places) else None


def _is_float(program: Program, node: Node) -> bool:
    return bool(np.issubdtype(program.types[node.outs[0]].dtype, np.floating))

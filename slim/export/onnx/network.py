"""What an ONNX graph is made of, before it is a file."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]
"""Sizes; None is what the batch decides."""


@dataclass(eq=False)
class Value:
    """An edge of the graph, its dimensions in the order in which they are stored.

    Attributes:
        shape: sizes.
        dtype: of its entries.
        name: "" until it has one.
        data: of a constant.
    """

    shape: Shape
    dtype: np.dtype
    name: str = ""
    data: np.ndarray | None = None


@dataclass(eq=False)
class Op:
    """An operator of ONNX."""

    code: str
    ins: list[Value]
    outs: list[Value]
    attributes: dict[str, Any]
    line: str


@dataclass(frozen=True, eq=False)
class Grid:
    """What the integers of a constant stand for: (integer - zero) * scale.

    Attributes:
        scale: float32, of the constant's rank; every size divides the constant's.
        zero: of the scale's shape.
        bits: 4 or 8.
    """

    scale: np.ndarray
    zero: np.ndarray
    bits: int

    def map(self, fn: Any) -> "Grid":
        """With both arrays changed alike."""
        return Grid(fn(self.scale), fn(self.zero), self.bits)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value of the program: what it is stored as, and how its dimensions are ordered there.

    Attributes:
        shape: sizes in the program's order; 1 where the program's is larger if it does not vary.
        dtype: of its entries; float32 of a constant with a grid.
        value: where it is stored; None of a constant.
        order: stored dimension i is the program's dimension order[i].
        data: of a constant, in the program's order; integers if it has a grid.
        grid: of a constant that is quantized.
        name: of a parameter.
    """

    shape: Shape
    dtype: np.dtype
    value: Value | None = None
    order: tuple[int, ...] = ()
    data: np.ndarray | None = None
    grid: Grid | None = None
    name: str = ""


@dataclass
class Network:
    """Operators in an order in which they can run."""

    ops: list[Op]
    inputs: list[Value]
    outputs: list[Value]
    names: dict[str, str] = field(default_factory=dict)

    def makers(self) -> dict[Value, Op]:
        """What makes each value."""
        return {out: op for op in self.ops for out in op.outs}

    def readers(self) -> dict[Value, list[Op]]:
        """What reads each value; an operator as often as it does."""
        found: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in op.ins:
                found.setdefault(value, []).append(op)
        return found

    def clean(self) -> None:
        """Drop what no output needs."""
        read, kept = set(self.outputs), []
        for op in reversed(self.ops):
            if not read.isdisjoint(op.outs):
                kept.append(op)
                read.update(op.ins)
        self.ops = kept[::-1]


def constant(data: Any, name: str = "") -> Value:
    """A constant's value; numbers without a dtype are int64, as ONNX wants sizes."""
    array = data if isinstance(data, (np.ndarray, np.generic)) else np.asarray(data, np.int64)
    array = np.asarray(array)
    return Value(array.shape, array.dtype, name, array)

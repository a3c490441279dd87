"""A TFLite network before it is bytes: tensors, operators, and who makes and reads what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int | None, ...]
"""Sizes; None where the batch decides."""


class Grid(NamedTuple):
    """The numbers that an integer tensor stands for: (n - zero_point) scale.

    Attributes:
        scale: float32 of shape (1,), or one for each index of `axis`.
        zero_point: int64 of the same shape.
        axis: the dimension that the scales lie along.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    def same(self, other: "Grid | None") -> bool:
        """Whether both stand for the same numbers."""
        return (
            other is not None
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.scale.size == 1 or self.axis == other.axis)
        )

    @property
    def is_symmetric(self) -> bool:
        """Whether 0 stands for 0."""
        return not self.zero_point.any()

    def values(self, stored: np.ndarray) -> np.ndarray:
        """The floats that integers stand for."""
        sizes = [-1 if d == self.axis else 1 for d in range(stored.ndim)]
        scale, zero = (each.reshape(sizes if each.size > 1 else ()) for each in self[:2])
        return (stored.astype(np.float32) - zero.astype(np.float32)) * scale


@dataclass(eq=False)
class Tensor:
    """One tensor.

    Attributes:
        shape: its sizes.
        dtype: of its entries.
        name: in the file.
        data: a constant's entries.
        grid: an integer tensor's, and that of the result of FAKE_QUANT.
    """

    shape: Shape
    dtype: np.dtype
    name: str = ""
    data: np.ndarray | None = None
    grid: Grid | None = None


@dataclass(eq=False)
class Op:
    """One operator; `code` is TFLite's name of it, or FAKE_QUANT, which no file holds.

    Attributes:
        code: TFLite's name.
        ins: what it reads; a contraction's bias may be left out.
        outs: what it makes.
        options: by the names of the schema's fields.
        line: the line of user code.
    """

    code: str
    ins: list[Tensor]
    outs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    line: str = ""


@dataclass
class Network:
    """Operators in an order in which they can run; inputs and outputs by name."""

    ops: list[Op]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def makers(self) -> dict[Tensor, Op]:
        """The operator that makes each tensor."""
        return {out: op for op in self.ops for out in op.outs}

    def readers(self) -> dict[Tensor, list[Op]]:
        """The operators that read each tensor, one entry a reading."""
        found: dict[Tensor, list[Op]] = {}
        for op in self.ops:
            for each in op.ins:
                found.setdefault(each, []).append(op)
        return found

    def without_dead(self) -> "Network":
        """Only what the outputs need."""
        wanted, kept = set(self.outputs.values()), []
        for op in reversed(self.ops):
            if not wanted.isdisjoint(op.outs):
                kept.append(op)
                wanted.update(op.ins)
        return Network(kept[::-1], self.inputs, self.outputs)

    def replace(self, new: Mapping[Tensor, Tensor], ops: Iterable[Op]) -> "Network":
        """These operators, reading and giving `new` tensors in the place of old ones."""

        def now(each: Tensor) -> Tensor:
            while each in new:
                each = new[each]
            return each

        kept = list(ops)
        for op in kept:
            op.ins = [now(each) for each in op.ins]
        outputs = {name: now(each) for name, each in self.outputs.items()}
        return Network(kept, self.inputs, outputs)


def constant(data: np.ndarray | Sequence[int], name: str = "", grid: Grid | None = None) -> Tensor:
    """A constant; 64-bit numbers become 32-bit ones, which is what TFLite's kernels take."""
    data = np.asarray(data)
    narrow = {np.dtype(np.int64): np.int32, np.dtype(np.float64): np.float32}
    data = data.astype(narrow.get(data.dtype, data.dtype), copy=False)
    return Tensor(data.shape, data.dtype, name, data, grid)

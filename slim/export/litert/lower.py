"""From a Program to a network in floats: a rule a primitive, in the tables of `litert.rules`.

Numbers of 16 bits are computed in float32. A broadcast is left to the operator that reads it
where that operator broadcasts by itself, so that no batch of copies is made.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from slim.export.litert.network import Network, Op, Shape, Tensor, constant
from slim.export.program import Node, Program, Unsupported

Rule = Callable[["Lowering", Node], Tensor | Sequence[Tensor]]


def lower(program: Program, rules: Mapping[str, Rule]) -> Network:
    """The network.

    Raises:
        Unsupported: a node without a rule, or one that its rule cannot express.
    """
    lowering = Lowering(program)
    for node in program.nodes:
        if node.op not in rules:
            raise Unsupported(node.op, node.line, "litert")
        lowering.node = node
        made = rules[node.op](lowering, node)
        for value, tensor in zip(
            node.outs, [made] if isinstance(made, Tensor) else made, strict=True
        ):
            lowering.put(value, tensor)
    outputs: dict[str, Tensor] = {}
    for name, value in program.outputs:
        tensor = lowering.tensor(value)
        if tensor.data is not None or tensor in (*lowering.inputs.values(), *outputs.values()):
            tensor = lowering.emit("RESHAPE", [tensor, lowering.sizes(tensor.shape)], tensor.shape)
        outputs[name] = tensor
    return Network(lowering.ops, lowering.inputs, outputs)


class Lowering:
    """What has been made so far, and the few steps that many rules take."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ops: list[Op] = []
        self.node: Node | None = None
        self._made: dict[int, Tensor] = {}
        self._whole: dict[int, Tensor] = {}
        self.inputs = {}
        for name, value in program.inputs:
            tensor = Tensor(self.shape(value), self.dtype(value), name)
            self.inputs[name] = self._made[value] = tensor
        for value, data in program.constants.items():
            name = program.names.get(value, f"constant_{value}")
            self._made[value] = constant(np.asarray(data).astype(self.dtype(value)), name)

    def shape(self, value: int) -> Shape:
        """The sizes of a value of the program."""
        return tuple(n if isinstance(n, int) else None for n in self.program.types[value].shape)

    def dtype(self, value: int) -> np.dtype:
        """The type that a value has in the network."""
        dtype = np.dtype(self.program.types[value].dtype)
        return np.dtype(np.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype

    def put(self, value: int, tensor: Tensor) -> None:
        """A value's tensor, of its shape or of one that broadcasts to it."""
        self._made[value] = tensor
        if not tensor.name:
            tensor.name = f"value_{value}"

    def loose(self, value: int) -> Tensor:
        """A value's tensor, perhaps with sizes 1 that the reader must broadcast."""
        tensor = self._made[value]
        if tensor.data is not None and tensor.grid is None and tensor.data.size > 1:
            return constant(_shrunk(tensor.data), tensor.name)
        return tensor

    def tensor(self, value: int) -> Tensor:
        """A value's tensor, of its shape."""
        if value not in self._whole:
            self._whole[value] = self._broadcast(self._made[value], self.shape(value))
        return self._whole[value]

    def operands(self, node: Node) -> list[Tensor]:
        """What an elementwise operator reads: tensors that broadcast to the node's result."""
        found = [self.loose(value) for value in node.ins]
        # What is known already costs least to have whole.
        for place in sorted(range(len(found)), key=lambda i: found[i].data is None):
            if _union(found) == self.shape(node.outs[0]):
                break
            found[place] = self.tensor(node.ins[place])
        return found

    def emit(
        self,
        code: str,
        ins: Sequence[Tensor],
        shape: Shape,
        dtype: np.dtype | None = None,
        **options: Any,
    ) -> Tensor:
        """The result of a new operator; of its first operand's type unless `dtype` is given."""
        out = Tensor(tuple(shape), dtype or ins[0].dtype)
        line = self.node.line if self.node else ""
        self.ops.append(Op(code, list(ins), [out], options, line))
        return out

    def unsupported(self, why: str) -> Unsupported:
        """The error for the node that is being lowered."""
        assert self.node is not None
        return Unsupported(f"{self.node.op} ({why})", self.node.line, "litert")

    def sizes(self, shape: Shape) -> Tensor:
        """A shape as an operand: -1 where the batch decides."""
        if shape.count(None) > 1:
            raise self.unsupported(f"shape {shape} has two sizes that the batch decides")
        return constant([-1 if n is None else n for n in shape])

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """The tensor in another shape."""
        if x.shape == tuple(shape):
            return x
        if x.data is not None and (x.grid is None or x.grid.scale.size == 1):
            return constant(x.data.reshape([n or -1 for n in shape]), x.name, x.grid)
        return self.emit("RESHAPE", [x, self.sizes(tuple(shape))], tuple(shape))

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """The tensor with its dimensions in another order."""
        order = list(order)
        if order == sorted(order):
            return x
        if x.data is not None:
            grid = x.grid and x.grid._replace(axis=order.index(x.grid.axis))
            return constant(np.ascontiguousarray(x.data.transpose(order)), x.name, grid)
        shape = tuple(x.shape[d] for d in order)
        if len(shape) > 6:
            raise self.unsupported("more than 6 dimensions")
        return self.emit("TRANSPOSE", [x, constant(order)], shape)

    def strided(
        self, x: Tensor, begin: Sequence[int], strides: Sequence[int], shape: Shape
    ) -> Tensor:
        """Every `strides`-th entry from `begin` on, as many as `shape` says; of the batch all."""
        if all(n == 1 for n in strides):
            return (
                x
                if shape == x.shape
                else self.emit("SLICE", [x, constant(begin), self.sizes(shape)], shape)
            )
        if (offset := _in_block(x, begin, strides, shape)) is not None:
            blocks = (x.shape[0], *shape[1:3], 4 * (x.shape[3] or 1))
            moved = self.emit("SPACE_TO_DEPTH", [x], blocks, blockSize=2)
            return self.strided(moved, (0, 0, 0, offset), (1, 1, 1, 1), shape)
        whole = sum(1 << d for d, n in enumerate(shape) if n is None)
        rows = zip(begin, strides, shape, strict=True)
        end = [0 if n is None else first + (n - 1) * step + 1 for first, step, n in rows]
        operands = [constant(list(each)) for each in (begin, end, strides)]
        return self.emit("STRIDED_SLICE", [x, *operands], shape, endMask=whole)

    def _broadcast(self, x: Tensor, shape: Shape) -> Tensor:
        if x.shape == shape:
            return x
        known = tuple(1 if n is None else n for n in shape)
        if x.data is not None:
            x = constant(np.broadcast_to(x.data, known), x.name)
            if None not in shape:
                return x
        which = constant(np.ones(known, bool))
        if None in shape and x.shape[shape.index(None) - len(shape)] is not None:
            batch = self._batch(shape)
            alone = x.shape == known
            which = batch if alone else self.emit("LOGICAL_OR", [batch, which], shape)
        # SELECT_V2 broadcasts whatever the batch is, which BROADCAST_TO does only of a shape
        # computed as the network runs, after which XNNPACK runs nothing more.
        return self.emit("SELECT_V2", [which, x, x], shape, x.dtype)

    def _batch(self, shape: Shape) -> Tensor:
        """Booleans of size one but for the batch, which is where `shape` has None."""
        source = next((each for each in self.inputs.values() if None in each.shape), None)
        if source is None or shape.count(None) > 1:
            raise self.unsupported(f"a broadcast to {shape}")
        begin, size = [0] * len(source.shape), [1] * len(source.shape)
        where = source.shape.index(None)
        size[where] = -1
        one = tuple(None if d == where else 1 for d in range(len(source.shape)))
        picked = self.emit("SLICE", [source, constant(begin), constant(size)], one)
        flat = self.reshape(picked, tuple(None if n is None else 1 for n in shape))
        return self.emit("EQUAL", [flat, flat], flat.shape, np.dtype(bool))


def _in_block(x: Tensor, begin: Sequence[int], strides: Sequence[int], shape: Shape) -> int | None:
    """Where channels of every second row and column begin in blocks of two by two.

    XNNPACK has no slices with strides, and is left for them; it has these blocks.
    """
    if tuple(strides) != (1, 2, 2, 1) or x.dtype.kind not in "fi" or begin[0] or begin[3]:
        return None
    sizes = x.shape[1:3]
    if shape[3] != x.shape[3] or any(n is None or n % 2 for n in sizes):
        return None
    if any(begin[d] > 1 or shape[d] != (x.shape[d] or 0) // 2 for d in (1, 2)):
        return None
    return (2 * begin[1] + begin[2]) * (x.shape[3] or 1)


def _union(tensors: Sequence[Tensor]) -> Shape:
    """What operands of these shapes broadcast to."""
    rank = max(len(each.shape) for each in tensors)
    rows = [(1,) * (rank - len(each.shape)) + each.shape for each in tensors]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*rows, strict=True))


def _shrunk(data: np.ndarray) -> np.ndarray:
    """The array with size one along every dimension that it does not vary along."""
    for d, n in enumerate(data.shape):
        first = data.take([0], axis=d) if n else data
        if n > 1 and np.array_equal(
            np.broadcast_to(first, data.shape), data, equal_nan=data.dtype.kind == "f"
        ):
            data = first
    return data


def product(sizes: Sequence[int | None]) -> int | None:
    """The number of entries; None where the batch decides."""
    return None if None in sizes else math.prod(n for n in sizes if n is not None)

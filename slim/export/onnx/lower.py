"""From a Program to ONNX operators: a rule a primitive, in the tables of `onnx.rules`.

Layouts follow the operators: a transpose only notes another order of dimensions, an elementwise
operator computes in the order in which it finds its operands, and an operator that needs an order
(a convolution: channels second) asks for it. So a network of NHWC convolutions has one Transpose,
before its first. Numbers of 16 bits are computed in float32.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from slim.export.onnx.network import Grid, Network, Op, Shape, Tensor, Value, constant
from slim.export.program import Node, Program, Unsupported

Rule = Callable[["Lowering", Node], Tensor | Sequence[Tensor]]


def lower(program: Program, rules: Mapping[str, Rule], *, profile: str = "onnx") -> Network:
    """The network.

    Raises:
        Unsupported: a node without a rule, or one that its rule cannot express.
    """
    lowering = Lowering(program, profile)
    for node in program.nodes:
        if node.op not in rules:
            raise Unsupported(node.op, node.line, profile)
        lowering.node = node
        made = rules[node.op](lowering, node)
        made = [made] if isinstance(made, Tensor) else made
        for value, tensor in zip(node.outs, made, strict=True):
            lowering.put(value, tensor)
    outputs: list[Value] = []
    for name, value in program.outputs:
        stored = lowering.stored(lowering.tensor(value))
        taken = {*lowering.inputs, *outputs}
        if stored.data is not None or stored in taken:
            stored = lowering.op("Identity", [stored], stored.shape, stored.dtype)
        stored.name = name
        outputs.append(stored)
    return Network(lowering.ops, lowering.inputs, outputs)


class Lowering:
    """What has been made so far, and the few steps that many rules take."""

    def __init__(self, program: Program, profile: str) -> None:
        self.program, self.profile = program, profile
        self.ops: list[Op] = []
        self.node: Node | None = None
        self._made: dict[int, Tensor] = {}
        self._whole: dict[int, Tensor] = {}
        self._moved: dict[tuple[Value, tuple[int, ...]], Value] = {}
        self._written: dict[tuple[Tensor, tuple[int, ...]], Value] = {}
        self._batch: Value | None = None
        self.inputs = []
        marks = [node for node in program.nodes if node.op == "fake_quant"]
        self.activations = any(mark.ins[0] not in program.constants for mark in marks)
        for name, number in program.inputs:
            value = Value(self.shape(number), self.dtype(number), name)
            self.inputs.append(value)
            order = tuple(range(len(value.shape)))
            self._made[number] = Tensor(value.shape, value.dtype, value, order)
        for number, data in program.constants.items():
            array = np.asarray(data).astype(self.dtype(number))
            self._made[number] = literal(array, program.names.get(number, ""))

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
        if tensor.value is not None and not tensor.value.name:
            tensor.value.name = f"value_{value}"

    def loose(self, value: int) -> Tensor:
        """A value's tensor, perhaps with sizes 1 that the reader must broadcast."""
        tensor = self._made[value]
        if tensor.data is not None and tensor.grid is None and tensor.data.size > 1:
            return literal(shrunk(tensor.data), tensor.name)
        return tensor

    def tensor(self, value: int) -> Tensor:
        """A value's tensor, of its shape."""
        if value not in self._whole:
            self._whole[value] = self._broadcast(self._made[value], value)
        return self._whole[value]

    def op(
        self, code: str, ins: Sequence[Value], shape: Shape, dtype: np.dtype, **attributes: Any
    ) -> Value:
        """The result of a new operator."""
        out = Value(tuple(shape), np.dtype(dtype))
        line = self.node.line if self.node else ""
        self.ops.append(Op(code, list(ins), [out], attributes, line))
        return out

    def emit(
        self,
        code: str,
        ins: Sequence[Value],
        shape: Shape,
        dtype: np.dtype,
        order: Sequence[int] | None = None,
        **attributes: Any,
    ) -> Tensor:
        """The same as a tensor; `shape` in the program's order, stored in `order`."""
        order = tuple(range(len(shape)) if order is None else order)
        value = self.op(code, ins, tuple(shape[d] for d in order), dtype, **attributes)
        return Tensor(tuple(shape), np.dtype(dtype), value, order)

    def unsupported(self, why: str) -> Unsupported:
        """The error for the node that is being lowered."""
        assert self.node is not None
        return Unsupported(f"{self.node.op} ({why})", self.node.line, self.profile)

    def stored(self, x: Tensor, order: Sequence[int] | None = None) -> Value:
        """The tensor's value with dimensions in some order; a Transpose if it has another."""
        order = tuple(range(len(x.shape)) if order is None else order)
        if x.data is not None:
            key = (x, order)
            if key not in self._written:
                self._written[key] = self._constant(x, order)
            return self._written[key]
        assert x.value is not None
        if x.order == order:
            return x.value
        perm = [x.order.index(d) for d in order]
        if (x.value, tuple(perm)) not in self._moved:
            shape = tuple(x.shape[d] for d in order)
            sized = [[d for d in each if x.shape[d] != 1] for each in (x.order, order)]
            if sized[0] == sized[1]:
                moved = self.op("Reshape", [x.value, self.sizes(shape)], shape, x.dtype)
            else:
                moved = self.op("Transpose", [x.value], shape, x.dtype, perm=perm)
            self._moved[x.value, tuple(perm)] = moved
        return self._moved[x.value, tuple(perm)]

    def sizes(self, shape: Shape) -> Value:
        """A shape as an operand: -1 where the batch decides."""
        if shape.count(None) > 1:
            raise self.unsupported(f"shape {shape} has two sizes that the batch decides")
        return constant([-1 if n is None else n for n in shape])

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """The tensor in another shape, its entries in the program's order."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if x.data is not None:
            sizes = [-1 if n is None else n for n in shape]
            grid = x.grid
            if grid is not None:
                data = x.data
                grid = grid.map(lambda each: shrunk(spread(each, data.shape).reshape(sizes)))
            return Tensor(shape, x.dtype, data=x.data.reshape(sizes), grid=grid, name=x.name)
        return self.emit("Reshape", [self.stored(x), self.sizes(shape)], shape, x.dtype)

    def batch(self) -> Value:
        """The batch's size, an int64 of shape (1,)."""
        if self._batch is None:
            source = next((each for each in self.inputs if None in each.shape), None)
            if source is None:
                raise self.unsupported("a size that no input has")
            place, int64 = source.shape.index(None), np.dtype(np.int64)
            sizes = self.op("Shape", [source], (len(source.shape),), int64)
            self._batch = self.op("Gather", [sizes, constant([place])], (1,), int64, axis=0)
        return self._batch

    def full_sizes(self, value: int) -> Value:
        """The whole shape of a value of the program, computed as the network runs."""
        parts = []
        for n in self.program.types[value].shape:
            if isinstance(n, int):
                parts.append(constant([n]))
                continue
            symbols = [str(each) for each in n._get_vars()]
            at = [n._evaluate({symbols[0]: k}) for k in (0, 1, 2)] if len(symbols) == 1 else [0]
            if len(at) != 3 or at[0] != 0 or at[2] != 2 * at[1]:
                raise self.unsupported(f"a size {n}; of the batch times a number only")
            size = self.batch()
            if at[1] != 1:
                times = constant([at[1]])
                size = self.op("Mul", [size, times], (1,), np.dtype(np.int64))
            parts.append(size)
        return self.op("Concat", parts, (len(parts),), np.dtype(np.int64), axis=0)

    def _constant(self, x: Tensor, order: tuple[int, ...]) -> Value:
        assert x.data is not None
        data = np.ascontiguousarray(x.data.transpose(order)).reshape(
            [x.data.shape[d] for d in order]
        )
        if x.grid is None:
            return constant(data, x.name)
        grid = x.grid.map(lambda each: each.transpose(order))
        return self._dequantized(data, grid, x.name)

    def _dequantized(self, data: np.ndarray, grid: Grid, name: str) -> Value:
        """Integers and the operator that makes floats of them."""
        scale, zero = shrunk(grid.scale), shrunk(grid.zero)
        along = [d for d, n in enumerate(scale.shape) if n > 1]
        spread_zero = (
            spread(zero, np.broadcast_shapes(zero.shape, scale.shape)) if (scale.ndim) else zero
        )
        float32 = np.dtype(np.float32)
        int4 = grid.bits == 4 and not self.activations and self.profile != "tensorrt"
        dtype: Any = ml_dtypes.int4 if int4 else np.int8
        if data.dtype == np.uint8:
            dtype = np.uint8
        blocks = self._blocks(data, scale, zero) if int4 else None
        if blocks is not None:
            size, scales = blocks
            ins = [constant(data.astype(dtype), name), constant(scales)]
            return self.op("DequantizeLinear", ins, data.shape, float32, axis=0, block_size=size)
        if len(along) > 1 or any(scale.shape[d] != data.shape[d] for d in along):
            whole = (data.astype(np.float32) - spread(zero, data.shape)) * spread(scale, data.shape)
            return constant(whole.astype(np.float32), name)
        axis = along[0] if along else 0
        flat = (lambda each: each.ravel()) if along else (lambda each: each.reshape(()))
        zeros = np.broadcast_to(spread_zero, scale.shape).astype(dtype)
        ins = [constant(data.astype(dtype), name), constant(flat(scale)), constant(flat(zeros))]
        return self.op(
            "DequantizeLinear", ins, data.shape, float32, **({"axis": axis} if along else {})
        )

    def _blocks(
        self, data: np.ndarray, scale: np.ndarray, zero: np.ndarray
    ) -> tuple[int, np.ndarray] | None:
        """A block's size and a scale for each, of a matrix (in, out), as MatMulNBits has them."""
        if data.ndim != 2 or np.any(zero):
            return None
        whole = spread(scale, data.shape)
        for size in (256, 128, 64, 32, 16):
            if data.shape[0] % size:
                continue
            rows = whole.reshape(-1, size, data.shape[1])
            if (rows == rows[:, :1]).all():
                return size, np.ascontiguousarray(rows[:, 0])
        return None

    def _broadcast(self, x: Tensor, value: int) -> Tensor:
        shape = self.shape(value)
        if x.shape == shape:
            return x
        if x.data is not None and None not in shape:
            known = tuple(n or 1 for n in shape)
            return Tensor(shape, x.dtype, data=np.broadcast_to(x.data, known), grid=x.grid)
        wanted = self.full_sizes(value)
        stored = self.stored(x)
        return self.emit("Expand", [stored, wanted], shape, x.dtype)


def literal(data: np.ndarray, name: str = "") -> Tensor:
    """A constant."""
    data = np.asarray(data)
    return Tensor(data.shape, data.dtype, data=data, name=name)


def spread(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An array repeated in blocks to a shape that its sizes divide."""
    array = np.asarray(array)
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    for d, n in enumerate(shape):
        if array.shape[d] != n:
            array = np.repeat(array, n // array.shape[d], axis=d)
    return array


def shrunk(data: np.ndarray) -> np.ndarray:
    """The array with size one along every dimension that it does not vary along."""
    for d, n in enumerate(data.shape):
        first = data.take([0], axis=d) if n else data
        same = n > 1 and np.array_equal(
            np.broadcast_to(first, data.shape), data, equal_nan=data.dtype.kind == "f"
        )
        data = first if same else data
    return data


def union(shapes: Sequence[Shape]) -> Shape:
    """What operands of these shapes broadcast to."""
    rank = max(len(each) for each in shapes)
    rows = [(1,) * (rank - len(each)) + tuple(each) for each in shapes]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*rows, strict=True))


def product(sizes: Sequence[int | None]) -> int | None:
    """The number of entries; None where the batch decides."""
    return None if None in sizes else math.prod(n for n in sizes if n is not None)

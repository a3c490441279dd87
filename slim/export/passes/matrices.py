"""Kernels of several dimensions, as attention's of heads by width, as matrices of in by out.

So a kernel has one dimension of outputs, and a scale for each, which files can say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from slim.export.program import Node, Program


def matrix_kernels(program: Program) -> Program:
    """Products with constant kernels of more than two dimensions, as products with matrices.

    A bias that is added at once is added before the result gets its dimensions again. Left as they
    are: kernels on the left, data whose summed dimensions are not the last, scales of groups that
    reach over several dimensions.
    """
    return _Matrices(program).program()


class _Kernel(NamedTuple):
    """What a product reads as its right operand."""

    constant: int
    mark: Node | None


class _Matrices:
    def __init__(self, program: Program) -> None:
        self.old = program
        self.types, self.constants = dict(program.types), dict(program.constants)
        self.names = dict(program.names)
        self.nodes: list[Node] = []
        self.makers = {value: node for node in program.nodes for value in node.outs}
        self.readers: dict[int, list[Node]] = {}
        for node in program.nodes:
            for value in node.ins:
                self.readers.setdefault(value, []).append(node)
        self.outputs = {value for _, value in program.outputs}
        self.done: set[int] = set()
        """Biases that are added already, by their results."""

    def program(self) -> Program:
        for node in self.old.nodes:
            if self.done.isdisjoint(node.outs) and not self._flat(node):
                self.nodes.append(node)
        return replace(
            self.old,
            nodes=tuple(self.nodes),
            types=self.types,
            constants=self.constants,
            names=self.names,
        )

    def _flat(self, node: Node) -> bool:
        """Whether the node was replaced."""
        if node.op != "dot_general" or (kernel := self._kernel(node.ins[1])) is None:
            return False
        (x_sum, k_sum), (x_batch, k_batch) = node.params["dimension_numbers"]
        rank, x = len(self.types[kernel.constant].shape), self.types[node.ins[0]]
        free = [d for d in range(rank) if d not in k_sum]
        last = tuple(range(len(x.shape) - len(x_sum), len(x.shape)))
        if x_batch or k_batch or (len(k_sum) == 1 and len(free) == 1) or not free:
            return False
        places = sorted(range(len(x_sum)), key=lambda i: x_sum[i])
        if len(x_sum) != 1 and tuple(x_sum[i] for i in places) != last:
            return False
        order = [*(k_sum[i] for i in places), *free]
        matrix = self._matrix(kernel, order, len(k_sum))
        if matrix is None:
            return False
        data, axis = node.ins[0], x_sum[0]
        depth, width = self.types[matrix].shape
        if len(x_sum) > 1:
            axis = last[0]
            data = self._reshape(data, (*x.shape[:axis], depth), node.line)
        rest = tuple(n for d, n in enumerate(self.types[data].shape) if d != axis)
        flat = self._new((*rest, width), self.types[node.outs[0]].dtype)
        params = {**node.params, "dimension_numbers": (((axis,), (0,)), ((), ()))}
        self.nodes.append(node._replace(ins=(data, matrix), outs=(flat,), params=params))
        flat, out = self._biased(node.outs[0], flat, len(free))
        self._reshape(flat, self.types[out].shape, node.line, out)
        return True

    def _kernel(self, value: int) -> _Kernel | None:
        if value in self.constants:
            return _Kernel(value, None)
        made = self.makers.get(value)
        marked = made is not None and made.op == "fake_quant" and made.ins[0] in self.constants
        return _Kernel(made.ins[0], made) if made is not None and marked else None

    def _matrix(self, kernel: _Kernel, order: Sequence[int], summed: int) -> int | None:
        """The kernel as a matrix, its mark behind it; None where its scales have no such form."""
        data = self.constants[kernel.constant].transpose(order)
        depth = math.prod(data.shape[:summed])
        params = None
        if kernel.mark is not None:
            params = _flat_marking(kernel.mark.params, data.shape, order, summed)
            if params is None:
                return None
        constant = self._new((depth, data.size // depth), self.types[kernel.constant].dtype)
        self.constants[constant] = data.reshape(depth, -1)
        if kernel.constant in self.names:
            self.names[constant] = self.names[kernel.constant]
        if kernel.mark is None or params is None:
            return constant
        marked = self._new(self.types[constant].shape, self.types[constant].dtype)
        mark = kernel.mark._replace(ins=(constant,), outs=(marked,), params=params)
        self.nodes.append(mark)
        return marked

    def _biased(self, result: int, flat: int, free: int) -> tuple[int, int]:
        """(the flat result with the bias that is added to it, the value that this stands for)."""
        after = self.readers.get(result, [])
        if len(after) != 1 or after[0].op != "add" or result in self.outputs:
            return flat, result
        (node,) = after
        (other,) = (v for v in node.ins if v != result) if node.ins[0] != node.ins[1] else (-1,)
        shape, whole = self.types[flat].shape, self.types[result].shape
        made = self.makers.get(other)
        source = other
        dims: Sequence[int] = range(len(whole))
        if made is not None and made.op == "broadcast_in_dim":
            source, dims = made.ins[0], made.params["broadcast_dimensions"]
        if source not in self.constants:
            return flat, result
        found, sizes = self.constants[source], [1] * len(whole)
        for d, n in zip(dims, found.shape, strict=True):
            sizes[d] = n
        ends = [n for n in whole[-free:] if isinstance(n, int)]
        ahead = sizes[:-free]
        row = np.broadcast_to(found.reshape(sizes), (*ahead, *ends))
        bias = self._constant(row.reshape(*ahead, -1))
        if made is not None:
            spread = self._new(shape, self.types[flat].dtype)
            every = tuple(range(len(shape)))
            params = {**made.params, "shape": shape, "broadcast_dimensions": every}
            self.nodes.append(made._replace(ins=(bias,), outs=(spread,), params=params))
            bias = spread
        added = self._new(shape, self.types[flat].dtype)
        self.nodes.append(node._replace(ins=(flat, bias), outs=(added,)))
        self.done.update(node.outs)
        return added, node.outs[0]

    def _reshape(
        self, value: int, shape: tuple[Any, ...], line: str, out: int | None = None
    ) -> int:
        out = self._new(shape, self.types[value].dtype) if out is None else out
        params = {"new_sizes": tuple(shape), "dimensions": None, "sharding": None}
        self.nodes.append(Node("reshape", (value,), (out,), params, line, lax.reshape_p))
        return out

    def _constant(self, data: np.ndarray) -> int:
        value = self._new(data.shape, data.dtype)
        self.constants[value] = data
        return value

    def _new(self, shape: tuple[Any, ...], dtype: Any) -> int:
        value = max(self.types) + 1
        self.types[value] = jax.ShapeDtypeStruct(tuple(shape), dtype)
        return value


def _flat_marking(
    params: Mapping[str, Any], shape: Sequence[int], order: Sequence[int], summed: int
) -> dict[str, Any] | None:
    """The params of a kernel's mark for its matrix, the kernel's dimensions in `order`."""

    def flat(scale: np.ndarray | None) -> np.ndarray | None:
        if scale is None:
            return None
        moved = scale.transpose(order)
        ends = moved.shape[summed:]
        if any(n != 1 for n in ends):
            moved = np.broadcast_to(moved, (*moved.shape[:summed], *shape[summed:]))
        return np.ascontiguousarray(moved).reshape(math.prod(moved.shape[:summed]), -1)

    moved = params["scale"].transpose(order).shape
    varied = [d for d in range(summed) if moved[d] > 1]
    whole = all(moved[d] in (1, shape[d]) for d in range(summed, len(shape)))
    if not whole or (varied and summed > 1):
        return None
    scale = flat(params["scale"])
    assert scale is not None
    axis = None if varied or scale.size == 1 else 1
    return {
        **params,
        "scale": scale,
        "zero_point": flat(params["zero_point"]),
        "axis": axis,
        "group": shape[0] // scale.shape[0] if varied else None,
    }

"""Factors and terms for each output of a convolution or product, in its kernel and one sum."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from slim.export.passes.matching import Reading, operand
from slim.export.program import Node, Program


def fold_affine(program: Program) -> Program:
    """Contractions by constants with what is multiplied with their results inside the kernels.

    So of a batch norm a sum is left. Kernels that are marked, or that others read, are left alone,
    and results that others read.
    """
    return _Affine(program).program()


class _Chain(NamedTuple):
    """What a contraction's result goes through: times a factor, plus a term."""

    nodes: tuple[Node, ...]
    factor: np.ndarray
    term: np.ndarray
    is_scaled: bool


class _Affine:
    def __init__(self, program: Program) -> None:
        self.old, self.reading = program, Reading(program)
        self.types, self.constants = dict(program.types), dict(program.constants)
        self.names = dict(program.names)
        self.readers: dict[int, list[Node]] = {}
        for node in program.nodes:
            for value in node.ins:
                self.readers.setdefault(value, []).append(node)
        self.outputs = {value for _, value in program.outputs}

    def program(self) -> Program:
        instead: dict[int, list[Node]] = {}
        gone: set[int] = set()
        for node in self.old.nodes:
            places = self._places(node)
            chain = None if places is None else self._chain(node, places[1])
            if places is None or chain is None or not chain.is_scaled:
                continue
            gone.update(value for each in (node, *chain.nodes) for value in each.outs)
            # In the last one's place, where all of the chain is known.
            instead[chain.nodes[-1].outs[0]] = self._folded(node, places, chain)
        nodes: list[Node] = []
        for node in self.old.nodes:
            found = instead.get(node.outs[0]) if node.outs else None
            nodes += found or ([] if not gone.isdisjoint(node.outs) else [node])
        return replace(
            self.old,
            nodes=tuple(nodes),
            types=self.types,
            constants=self.constants,
            names=self.names,
        )

    def _places(self, node: Node) -> tuple[int, int] | None:
        """The dimensions of outputs in the kernel and in the result, of what can be folded into."""
        if node.op not in ("conv_general_dilated", "dot_general"):
            return None
        kernel = node.ins[1]
        alone = len(self.readers[kernel]) == 1 and kernel not in self.outputs
        if kernel not in self.constants or not alone:
            return None
        if self.constants[kernel].dtype != np.float32 or node.ins[0] in self.constants:
            return None
        if node.op == "conv_general_dilated":
            _, rhs, out = node.params["dimension_numbers"]
            return rhs[0], out[1]
        (_, summed), (_, batch) = node.params["dimension_numbers"]
        free = [d for d in range(self.constants[kernel].ndim) if d not in (*summed, *batch)]
        if batch or len(free) != 1:
            return None
        return free[0], len(self.types[node.outs[0]].shape) - 1

    def _chain(self, node: Node, place: int) -> _Chain | None:
        (value,) = node.outs
        kind = self.types[value]
        count = kind.shape[place]
        if kind.dtype != np.float32 or not isinstance(count, int):
            return None
        nodes: list[Node] = []
        factor, term, is_scaled = np.ones(count), np.zeros(count), False
        while value not in self.outputs and len(self.readers.get(value, [])) == 1:
            (reader,) = self.readers[value]
            first = bool(reader.ins) and reader.ins[0] == value
            two = reader.op in ("add", "mul") or (first and reader.op in ("div", "sub"))
            if not two or self.types[reader.outs[0]].shape != kind.shape:
                break
            row = self._row(reader.ins[1 if first else 0], kind.shape, place)
            if row is None or (reader.op == "div" and not row.all()):
                break
            if reader.op in ("add", "sub"):
                term = term + row if reader.op == "add" else term - row
            else:
                row = 1 / row if reader.op == "div" else row
                factor, term, is_scaled = factor * row, term * row, True
            nodes.append(reader)
            (value,) = reader.outs
        return _Chain(tuple(nodes), factor, term, is_scaled)

    def _row(self, value: int, shape: Sequence[Any], place: int) -> np.ndarray | None:
        """A constant as a number for each output."""
        if (number := self.reading.number(value)) is not None:
            return np.full(shape[place], number)
        if self.reading.view(value).base not in self.constants:
            return None
        dims = tuple(0 if d == place else None for d in range(len(shape)))
        found = operand(self.reading, value, dims, (shape[place],))
        if found is None:
            return None
        return np.asarray(self.constants[found] if isinstance(found, int) else found, np.float64)

    def _folded(self, node: Node, places: tuple[int, int], chain: _Chain) -> list[Node]:
        old, (axis, place) = node.ins[1], places
        data = self.constants[old]
        sizes = [-1 if d == axis else 1 for d in range(data.ndim)]
        kernel = self._constant((data * chain.factor.reshape(sizes)).astype(np.float32))
        if old in self.names:
            self.names[kernel] = self.names[old]
        last, shape = chain.nodes[-1], self.types[node.outs[0]].shape
        made = node._replace(ins=(node.ins[0], kernel))
        if not chain.term.any():
            return [made._replace(outs=last.outs)]
        bias = self._constant(chain.term.astype(np.float32))
        wide = self._new(shape)
        params = {"shape": shape, "broadcast_dimensions": (place,), "sharding": None}
        return [
            made,
            Node("broadcast_in_dim", (bias,), (wide,), params, last.line, lax.broadcast_in_dim_p),
            Node("add", (node.outs[0], wide), last.outs, {}, last.line, lax.add_p),
        ]

    def _constant(self, data: np.ndarray) -> int:
        value = self._new(data.shape)
        self.constants[value] = data
        return value

    def _new(self, shape: Sequence[Any]) -> int:
        value = max(self.types) + 1
        self.types[value] = jax.ShapeDtypeStruct(tuple(shape), np.float32)
        return value

"""Marks between the sites of a quantized Program, so that runtimes stay on integers there.

A recipe says what the contractions read. A runtime computes one in integers alone where its result
is rounded too, and a sum, a pool or a rectifier where all that it reads and gives is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.export.program import Node, Program
from slim.quant.numerics import find_format

CONTRACTIONS = frozenset({"conv_general_dilated", "dot_general"})
MOVES = frozenset({"gather", "pad", "reshape", "rev", "slice", "squeeze", "transpose"})
"""What leaves the numbers of its first operand as they are, zeros beside them."""
RECTIFIERS = frozenset({"clamp", "max", "min", "relu", "relu6"})
WITH_CONSTANTS = RECTIFIERS | {"add", "sub"}
"""What runtimes join with the contraction before it, where its other operands are constants."""

FORMAT, STEPS = "uint8", 255
"""Of new marks: ONNX Runtime joins a rectifier with what is unsigned from zero on, alone."""


class Range(NamedTuple):
    """The least and the greatest number that a value had."""

    low: float
    high: float


def full_integer(
    program: Program, batches: Iterable[Sequence[Any]], *, results: bool = True
) -> Program:
    """The Program with marks on what stands between its marked contractions as well.

    New grids reach from the least to the greatest number of the batches. A value that is marked
    already keeps its grid, which all that read it then read, also the sum around a block.

    Args:
        program: with marks on the operands of contractions; others stay as they are.
        batches: inputs, for the ranges; not read where nothing is to be marked.
        results: whether the result of each marked convolution is, even where only floats are
            computed of it: LiteRT has no kernel otherwise.

    Raises:
        ValueError: no batches, or ranges that are not finite.
    """
    paths = _Paths(program)
    wanted, joined, ends = paths.wanted(results)
    unknown = sorted(value for value in wanted if paths.grid(value, wanted) is None)
    found = ranges(program, unknown, batches) if unknown else {}
    grids = {}
    for value in wanted:
        known = paths.grid(value, wanted)
        grids[value] = known or _grid(found[value], len(program.types[value].shape))
    return _marked(program, grids, joined, ends)


def ranges(
    program: Program, values: Sequence[int], batches: Iterable[Sequence[Any]]
) -> dict[int, Range]:
    """The range of each of some values over batches of inputs.

    Raises:
        ValueError: no batches, or a range that is not finite.
    """

    @jax.jit
    def ends(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = program.values(values, *inputs)
        lows, highs = ([end(x) for x in found] for end in (jnp.min, jnp.max))
        return jnp.stack(lows), jnp.stack(highs)

    each = [jax.device_get(ends(*batch)) for batch in batches]
    if not each:
        raise ValueError("no batches to take ranges from; give at least one")
    low, high = np.min([lows for lows, _ in each], 0), np.max([highs for _, highs in each], 0)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        worst = values[int(np.argmin(np.isfinite(low) & np.isfinite(high)))]
        line = next((node.line for node in program.nodes if worst in node.outs), "an input")
        raise ValueError(f"a value between the sites is not finite on these batches ({line})")
    return {v: Range(float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)}


Marking = Mapping[str, Any]
"""The params of a fake_quant."""


def _grid(of: Range, rank: int) -> Marking:
    low, high = min(of.low, 0.0), max(of.high, 0.0)
    scale = np.float32((high - low) / STEPS) or np.float32(1.0)
    ones = (1,) * rank
    return {
        "scale": np.full(ones, scale, np.float32),
        "zero_point": np.full(ones, round(-low / float(scale)), np.int32),
        "format": FORMAT,
        "axis": None,
        "group": None,
    }


@dataclass(frozen=True)
class _Paths:
    """How values of a program lie between its contractions."""

    program: Program

    @cached_property
    def makers(self) -> Mapping[int, Node]:
        return {value: node for node in self.program.nodes for value in node.outs}

    @cached_property
    def readers(self) -> Mapping[int, Sequence[Node]]:
        found: dict[int, list[Node]] = {}
        for node in self.program.nodes:
            for value in dict.fromkeys(node.ins):
                found.setdefault(value, []).append(node)
        return found

    @cached_property
    def outputs(self) -> frozenset[int]:
        return frozenset(value for _, value in self.program.outputs)

    @cached_property
    def fixed(self) -> frozenset[int]:
        """What follows from constants alone."""
        known = set(self.program.constants)
        for node in self.program.nodes:
            if all(value in known for value in node.ins):
                known.update(node.outs)
        return frozenset(known)

    def wanted(self, results: bool) -> tuple[set[int], set[int], set[int]]:
        """The values that are to be on a grid; which nodes read them there; which are read so only.

        Nodes are given by their results.
        """
        found: set[int] = set()
        joined: set[int] = set()
        ends: set[int] = set()
        for node in self.program.nodes:
            if not self.is_site(node):
                continue
            if results and node.op == "conv_general_dilated":
                ends.add(self._end(node.outs[0]))
            for value in node.ins:
                mark = None if value in self.fixed else self._mark_before(value)
                if mark is not None:
                    self._ahead(mark.ins[0], found, joined)
        return found | ends, joined, ends

    def grid(self, value: int, wanted: set[int]) -> Marking | None:
        """The grid that a value has, or will have because it is moved alone; None: its range's."""
        after = self.readers.get(value, ())
        for node in after:
            if node.op == "fake_quant" and _is_tensor_of_8_bits(node):
                return node.params
        moved = len(after) == 1 and after[0].op in MOVES | {"reduce_window_max"}
        if moved and value not in self.outputs:
            found = self.grid(after[0].outs[0], wanted)
            return found and _of_rank(found, len(self.program.types[value].shape))
        return None

    def is_site(self, node: Node) -> bool:
        """Whether it is a contraction of marked data by a marked constant."""
        if node.op not in CONTRACTIONS or sum(v in self.fixed for v in node.ins) != 1:
            return False
        marks = {value: self._mark_before(value) for value in node.ins}
        data = next(mark for value, mark in marks.items() if value not in self.fixed)
        return None not in marks.values() and data is not None and _is_tensor_of_8_bits(data)

    def _mark_before(self, value: int) -> Node | None:
        node = self.makers.get(value)
        if node is not None and node.op in MOVES:
            return self._mark_before(node.ins[0])
        return node if node is not None and node.op == "fake_quant" else None

    def _end(self, value: int) -> int:
        """The last of a contraction's result, its bias, its rectifier."""
        after = self.readers.get(value, ())
        if value in self.outputs or len(after) != 1:
            return value
        (node,) = after
        alone = sum(each not in self.fixed for each in node.ins) == 1
        joined = node.op in WITH_CONSTANTS | {"reshape"}
        return self._end(node.outs[0]) if alone and joined else value

    def _ahead(self, value: int, found: set[int], joined: set[int]) -> None:
        """Adds a value that should be on a grid, and those before it that then should, too."""
        node = self.makers.get(value)
        if value in found or not jnp.issubdtype(self.program.types[value].dtype, jnp.floating):
            return
        if node is None or node.op == "fake_quant":
            return
        if node.op in MOVES:
            joined.add(value)
            self._ahead(node.ins[0], found, joined)
            return
        found.add(value)
        for reader in self._reading(node):
            joined.add(reader.outs[0])
            for each in reader.ins:
                if each not in self.fixed:
                    self._ahead(each, found, joined)

    def _reading(self, node: Node) -> Sequence[Node]:
        """What reads grids where the node's result is computed in integers: a sum, a pool."""
        data = [value for value in node.ins if value not in self.fixed]
        if node.op in ("add", "add_any") and len(data) == 2:
            return [node]
        if node.op in ("reduce_window_max", "reduce_window_sum", "mean", "reduce_sum"):
            return [node]
        before = self.makers.get(data[0]) if len(data) == 1 else None
        if before is not None and node.op in RECTIFIERS:
            return self._reading(before)
        if before is not None and node.op in ("div", "mul"):
            return [before] if before.op in ("reduce_sum", "reduce_window_sum") else []
        return []


def _is_tensor_of_8_bits(node: Node) -> bool:
    fmt = find_format(node.params["format"])
    return fmt.is_integer and fmt.bits == 8 and node.params["scale"].size == 1


def _of_rank(marking: Marking, rank: int) -> Marking:
    shaped = {
        name: None if marking[name] is None else np.reshape(marking[name], (1,) * rank)
        for name in ("scale", "zero_point")
    }
    return {**marking, **shaped}


def _same(a: Marking, b: Marking) -> bool:
    zeros = [0 if each["zero_point"] is None else int(each["zero_point"].item()) for each in (a, b)]
    scales = [float(each["scale"].item()) for each in (a, b)]
    return (a["format"], scales[0], zeros[0]) == (b["format"], scales[1], zeros[1])


def _marked(
    program: Program, grids: Mapping[int, Marking], joined: set[int], ends: set[int]
) -> Program:
    """The program with marks right behind what makes values, read as `_Paths.wanted` says."""
    types, nodes = dict(program.types), list[Node]()
    instead: dict[int, int] = {}
    dropped: dict[int, int] = {}

    def mark(value: int, line: str) -> None:
        if value in grids:
            instead[value] = 1 + max(types)
            types[instead[value]] = types[value]
            nodes.append(Node("fake_quant", (value,), (instead[value],), grids[value], line))

    for name, value in program.inputs:
        mark(value, f"input {name!r}")
    for node in program.nodes:
        if node.op == "fake_quant" and node.ins[0] in grids:
            if _is_tensor_of_8_bits(node) and _same(node.params, grids[node.ins[0]]):
                dropped[node.outs[0]] = instead[node.ins[0]]
            else:
                nodes.append(node)
            continue
        all_of = not joined.isdisjoint(node.outs)
        ins = tuple(
            instead[value]
            if value in instead and (all_of or value in ends)
            else dropped.get(value, value)
            for value in node.ins
        )
        nodes.append(node._replace(ins=ins))
        for value in node.outs:
            mark(value, node.line)
    outputs = tuple((name, dropped.get(value, value)) for name, value in program.outputs)
    return replace(program, nodes=tuple(nodes), types=types, outputs=outputs)

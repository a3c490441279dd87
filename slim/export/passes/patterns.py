"""Nodes that together are a pattern of `slim.export.patterns`, as one node."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np

from slim.export.passes.cleaning import fold_constants, simplify, without_dead
from slim.export.passes.matching import REDUCTIONS, Bound, Matcher, Reading
from slim.export.patterns.pattern import Function
from slim.export.patterns.table import PATTERNS
from slim.export.program import Node, Program, of_shapes


def matched(program: Program, names: Collection[str]) -> Program:
    """The program with patterns as nodes of their names; inner values that are read elsewhere stay.

    A `fake_quant` is part of no pattern, so nothing is left unrounded that was rounded.

    Args:
        program: after `passes.standard`.
        names: of patterns; others are left as they are.
    """
    for name in PATTERNS:
        if name in names and PATTERNS[name].spellings:
            program = _Search(program, name).program()
    return program


class _Search:
    """One pattern's, from the outputs on, so that a spelling is not found inside a larger one."""

    def __init__(self, program: Program, name: str) -> None:
        self.old, self.name, self.reading = program, name, Reading(program)
        self.types, self.constants = dict(program.types), dict(program.constants)
        self.sketches: dict[str, list[_Sketch]] = {}
        for sketch in _sketches(name):
            self.sketches.setdefault(sketch.matcher.op, []).append(sketch)
        # Symbols of different programs cannot be compared, so no trace outlives the search.
        self.exact: dict[tuple[Any, ...], Matcher] = {}

    def program(self) -> Program:
        read, nodes = {value for _, value in self.old.outputs}, []
        for node in reversed(self.old.nodes):
            if read.isdisjoint(node.outs):
                continue
            node = self._found(node) or node
            read.update(node.ins)
            nodes.append(node)
        made = replace(
            self.old, nodes=tuple(nodes[::-1]), types=self.types, constants=self.constants
        )
        return without_dead(made)

    def _found(self, node: Node) -> Node | None:
        for sketch in self.sketches.get(self.reading.step(node).op, []):
            rough = sketch.matcher.match(self.reading, node)
            if rough is None:
                continue
            for matcher, params in self._matchers(sketch, rough, node):
                bound = matcher.match(self.reading, node)
                if bound is not None:
                    return self._node(node, matcher, bound, params)
        return None

    def _matchers(
        self, sketch: "_Sketch", rough: Bound, node: Node
    ) -> Iterator[tuple[Matcher, Mapping[str, Any]]]:
        x = self.old.types[rough[sketch.x]]
        if not np.issubdtype(x.dtype, np.floating):
            return
        axes = sketch.axes(self.reading, rough)
        if any(d >= len(x.shape) or not isinstance(x.shape[d], int) for d in axes):
            return
        for params in sketch.params(axes):
            key = (sketch, tuple(x.shape), x.dtype, *params.items())
            if key not in self.exact:
                self.exact[key] = sketch.at(x, params)
            matcher = self.exact[key]
            out = matcher.fragment.program.types[matcher.root]
            if (tuple(out.shape), out.dtype) == (
                tuple(self.old.types[node.outs[0]].shape),
                self.old.types[node.outs[0]].dtype,
            ):
                yield matcher, params

    def _node(
        self, node: Node, matcher: Matcher, bound: Bound, params: Mapping[str, Any]
    ) -> Node | None:
        ins, numbers = [], {}
        for value, name in matcher.inputs.items():
            found = bound.get(value)
            if found is None:
                return None
            if name in matcher.numbers:
                numbers[name] = found
            elif isinstance(found, np.ndarray):
                ins.append(1 + max(self.types))
                self.types[ins[-1]] = jax.ShapeDtypeStruct(found.shape, found.dtype)
                self.constants[ins[-1]] = found
            else:
                ins.append(found)
        return Node(self.name, tuple(ins), node.outs, {**params, **numbers}, node.line)


class _Sketch:
    """A spelling at shapes of its own: whether it is worth to be traced at others.

    Attributes:
        matcher: of the sketch.
        x: the number of `x` in it.
    """

    def __init__(self, spelling: Function) -> None:
        given = inspect.signature(spelling).parameters.values()
        self.spelling = spelling
        self.operands = [each.name for each in given if each.kind is each.POSITIONAL_OR_KEYWORD]
        keywords = [each.name for each in given if each.kind is each.KEYWORD_ONLY]
        self.keywords = keywords
        self.numbers = [name for name in keywords if name not in ("axes", "axis", "keepdims")]
        first = next(self.params((1,)))
        made = self._traced(jax.ShapeDtypeStruct((2, 3), np.float32), first)
        self.matcher = Matcher(made, self.numbers, loose=True)
        self.x = made.inputs[0][1]

    def params(self, axes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
        """The params that are not numbers, of what is reduced over some dimensions."""
        along: dict[str, Any] = {}
        if "axis" in self.keywords:
            if len(axes) != 1:
                return
            along = {"axis": axes[0]}
        elif "axes" in self.keywords:
            along = {"axes": axes}
        for keepdims in (False, True) if "keepdims" in self.keywords else (None,):
            yield along if keepdims is None else {**along, "keepdims": keepdims}

    def axes(self, program: Reading, bound: Bound) -> tuple[int, ...]:
        """What the first reduction is over; () without one."""
        for node in self.matcher.fragment.program.nodes:
            if node.op in REDUCTIONS and node.outs[0] in bound:
                return tuple(program.makers[bound[node.outs[0]]].params["axes"])
        return ()

    def at(self, x: jax.ShapeDtypeStruct, params: Mapping[str, Any]) -> Matcher:
        """At the shape of an operand."""
        return Matcher(self._traced(x, params), self.numbers, loose=False)

    def _traced(self, x: jax.ShapeDtypeStruct, params: Mapping[str, Any]) -> Program:
        sizes = (x.shape[params["axis"]],) if "axis" in params else ()
        more = [jax.ShapeDtypeStruct(sizes, x.dtype)] * (len(self.operands) - 1)
        numbers = [jax.ShapeDtypeStruct((), x.dtype)] * len(self.numbers)
        count = len(self.operands)

        def fn(_: object, *given: jax.Array) -> jax.Array:
            named = dict(zip(self.numbers, given[count:], strict=True))
            return self.spelling(*given[:count], **params, **named)

        made = of_shapes(
            fn,
            {},
            x,
            *more,
            *numbers,
            input_names=(*("x", *self.operands[1:]), *self.numbers),
            output_names=("y",),
        )
        return without_dead(simplify(fold_constants(made)))


@cache
def _sketches(name: str) -> tuple[_Sketch, ...]:
    return tuple(_Sketch(spelling) for spelling in PATTERNS[name].spellings)

"""Whether a value of one Program is computed as a value of another is, whatever its operands.

Two things that do not change numbers are not told apart: how often an operand is repeated to its
reader's shape, and the order of the operands of a sum, a product, a minimum, a maximum.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from slim.export.program import Node, Program

COMMUTATIVE = frozenset({"add", "max", "min", "mul"})
REDUCTIONS = frozenset({"reduce_max", "reduce_min", "reduce_prod", "reduce_sum"})
REPEATS = frozenset({"broadcast_in_dim", "expand_dims", "reshape", "squeeze"})
"""What may only repeat entries or add and drop sizes of one."""
IGNORED = frozenset({"accuracy", "axes", "out_sharding", "sharding"})
"""Params that do not tell what is computed; axes are compared apart."""

TOLERANCE = 1e-6
"""Relative, between numbers."""

Dims = tuple[int | None, ...]


class View(NamedTuple):
    """A value as another's entries: for each dimension that one's, None where it is repeated."""

    base: int
    dims: Dims


class Step(NamedTuple):
    """A node, said in one of several equal ways."""

    op: str
    operands: tuple[int | float, ...]


class Reading:
    """A Program by what makes its values."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.makers = {value: node for node in program.nodes for value in node.outs}
        self._views: dict[int, View] = {}
        self._numbers: dict[int, float | None] = {}

    def shape(self, value: int) -> tuple[Any, ...]:
        """A value's sizes."""
        return tuple(self.program.types[value].shape)

    def view(self, value: int) -> View:
        """What a value repeats."""
        if value not in self._views:
            self._views[value] = self._view(value)
        return self._views[value]

    def _view(self, value: int) -> View:
        shape, node = self.shape(value), self.makers.get(value)
        whole: Dims = tuple(None if _is_one(n) else d for d, n in enumerate(shape))
        if node is None or node.op not in REPEATS or len(node.ins) != 1:
            return View(value, whole)
        given, (base, inner) = self.shape(node.ins[0]), self.view(node.ins[0])
        if node.op == "broadcast_in_dim":
            places = node.params["broadcast_dimensions"]
        else:
            places = [d for d, n in enumerate(shape) if not _is_one(n)]
            kept = [d for d, n in enumerate(given) if not _is_one(n)]
            reordered = node.params.get("dimensions") if node.op == "reshape" else None
            if reordered is not None or [shape[d] for d in places] != [given[d] for d in kept]:
                return View(value, whole)
            inner = tuple(inner[d] for d in kept)
        dims: list[int | None] = [None] * len(shape)
        for place, d in zip(places, inner, strict=True):
            dims[place] = d
        return View(base, tuple(dims))

    def number(self, value: int) -> float | None:
        """What every entry of a constant is, if they are equal."""
        if value not in self._numbers:
            data = self.program.constants.get(self.view(value).base)
            found = None
            if data is not None and data.size and data.dtype.kind in "fiub":
                first = data.reshape(-1)[0]
                same = data.size == 1 or np.array_equal(
                    data, np.full_like(data, first), equal_nan=data.dtype.kind == "f"
                )
                found = float(first) if same else None
            self._numbers[value] = found
        return self._numbers[value]

    def step(self, node: Node) -> Step:
        """A node; quotients by numbers as products, squares as products."""
        ins = node.ins
        if node.op == "square" or (node.op == "integer_pow" and node.params["y"] == 2):
            return Step("mul", (ins[0], ins[0]))
        if node.op == "add_any":
            return Step("add", ins)
        floats = self.program.types[node.outs[0]].dtype.kind == "f"
        divisor = self.number(ins[1]) if node.op == "div" and floats else None
        return Step("mul", (ins[0], 1 / divisor)) if divisor else Step(node.op, ins)

    def places(self, operand: int, out: Sequence[Any] | None) -> Dims:
        """An operand's view, along the dimensions that its reader's result does not have as one."""
        base, dims = self.view(operand)
        order = [d for d, n in enumerate(self.shape(base)) if not _is_one(n)]
        named = tuple(None if d is None else order.index(d) for d in dims)
        shape = self.shape(operand)
        out = shape if out is None else out
        # A number that is read beside arrays is repeated along all of their dimensions.
        named = (None,) * (len(out) - len(named)) + named
        return tuple(d for d, n in zip(named, out, strict=True) if not _is_one(n))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


Bound = Mapping[int, Any]
"""The Program's values, by the fragment's: of its inputs, and of what its nodes make."""


class Matcher:
    """Of a fragment: a Program of one function.

    Args:
        fragment: its inputs are operands `x` and others, and numbers.
        numbers: names of inputs that stand for a number.
        loose: whether shapes, axes and numbers are left out of the comparison.
    """

    def __init__(self, fragment: Program, numbers: Sequence[str], *, loose: bool) -> None:
        self.fragment, self.loose = Reading(fragment), loose
        self.inputs = {value: name for name, value in fragment.inputs}
        self.numbers = frozenset(numbers)
        ((_, self.root),) = fragment.outputs

    @property
    def op(self) -> str:
        """What the fragment's last step is."""
        return self.fragment.step(self.fragment.makers[self.root]).op

    def match(self, program: Reading, node: Node) -> Bound | None:
        """What the fragment's inputs stand for, if the node's result is the fragment's."""
        maker = self.fragment.makers[self.root]
        return next(self._node(maker, program, node, {}), None)

    def _node(self, own: Node, program: Reading, node: Node, bound: Bound) -> Iterator[Bound]:
        (made,) = own.outs if len(own.outs) == 1 else (None,)
        if made is None or len(node.outs) != 1:
            return
        if made in bound:
            if bound[made] == node.outs[0]:
                yield bound
            return
        mine, other = self.fragment.step(own), program.step(node)
        if mine.op != other.op or len(mine.operands) != len(other.operands):
            return
        shapes = (self.fragment.shape(made), program.shape(node.outs[0]))
        if not self.loose and (
            _sizes(shapes[0]) != _sizes(shapes[1]) or not self._same_params(own, program, node)
        ):
            return
        whole = own.op not in REDUCTIONS
        outs = shapes if whole else (None, None)
        orders = [other.operands]
        if mine.op in COMMUTATIVE and other.operands[0] != other.operands[1]:
            orders.append(other.operands[::-1])
        for operands in orders:
            pairs = list(zip(mine.operands, operands, strict=True))
            for found in self._all(pairs, program, bound, outs):
                yield {**found, made: node.outs[0]}

    def _all(
        self,
        pairs: Sequence[tuple[int | float, int | float]],
        program: Reading,
        bound: Bound,
        outs: tuple[Any, Any],
    ) -> Iterator[Bound]:
        if not pairs:
            yield bound
            return
        for found in self._operand(*pairs[0], program, bound, outs):
            yield from self._all(pairs[1:], program, found, outs)

    def _operand(
        self, own: Any, other: Any, program: Reading, bound: Bound, outs: tuple[Any, Any]
    ) -> Iterator[Bound]:
        if isinstance(own, float) or isinstance(other, float):
            mine, others = (
                each if isinstance(each, float) else side.number(each)
                for each, side in ((own, self.fragment), (other, program))
            )
            if self._equal(mine, others):
                yield bound
            return
        base, _ = self.fragment.view(own)
        if base in self.inputs:
            yield from self._input(own, other, program, bound, outs)
        elif base in self.fragment.program.constants:
            if self._equal(self.fragment.number(own), program.number(other)):
                yield bound
        elif (source := program.makers.get(program.view(other).base)) is not None:
            same = self.loose or (
                self.fragment.places(own, outs[0]) == program.places(other, outs[1])
            )
            if same:
                yield from self._node(self.fragment.makers[base], program, source, bound)

    def _input(
        self, own: int, other: int, program: Reading, bound: Bound, outs: tuple[Any, Any]
    ) -> Iterator[Bound]:
        base, dims = self.fragment.view(own)
        name = self.inputs[base]
        found: Any = other
        if name in self.numbers:
            number = program.number(other)
            if number is None or bound.get(base, number) != number:
                return
            yield {**bound, base: number}
            return
        if name != "x":
            shape = self.fragment.shape(base)
            given = other if self.loose else operand(program, other, dims, shape)
            if given is None:
                return
            found = given
        elif not self.loose and (
            self.fragment.places(own, outs[0]) != self._x_places(program, other, outs[1])
        ):
            return
        before = bound.get(base)
        if before is None or (name == "x" and _same_view(program, before, other)):
            yield bound if before is not None else {**bound, base: found}

    def _x_places(self, program: Reading, value: int, out: Any) -> Dims:
        """Of a value as it is, whatever it repeats."""
        shape = program.shape(value)
        order = [d for d, n in enumerate(shape) if not _is_one(n)]
        dims = tuple(None if _is_one(n) else order.index(d) for d, n in enumerate(shape))
        out = shape if out is None else out
        if len(out) < len(dims):
            return (-1,)
        dims = (None,) * (len(out) - len(dims)) + dims
        return tuple(d for d, n in zip(dims, out, strict=True) if not _is_one(n))

    def _equal(self, own: float | None, other: float | None) -> bool:
        if own is None or other is None:
            return False
        if self.loose or own == other or (np.isnan(own) and np.isnan(other)):
            return True
        return bool(abs(own - other) <= TOLERANCE * abs(own))

    def _same_params(self, own: Node, program: Reading, node: Node) -> bool:
        if "axes" in own.params and own.op == node.op:
            axes = [
                _among(side.shape(each.ins[0]), each.params["axes"])
                for side, each in ((self.fragment, own), (program, node))
            ]
            if axes[0] != axes[1]:
                return False
        if own.op != node.op:  # two ways of saying one step, which have no params
            return True
        mine, others = (
            {key: each for key, each in params.items() if key not in IGNORED}
            for params in (own.params, node.params)
        )
        return mine == others


def _sizes(shape: Sequence[Any]) -> list[Any]:
    return [n for n in shape if not _is_one(n)]


def _among(shape: Sequence[Any], axes: Sequence[int]) -> list[int]:
    """Dimensions counted without those of size one."""
    order = [d for d, n in enumerate(shape) if not _is_one(n)]
    return sorted(order.index(d) for d in axes if d in order)


def _same_view(program: Reading, one: int, other: int) -> bool:
    if one == other:
        return True
    same = program.view(one).base == program.view(other).base
    return same and program.places(one, None) == program.places(other, None)


def operand(
    program: Reading, value: int, dims: Dims, shape: Sequence[Any]
) -> int | np.ndarray | None:
    """What has a shape and is the value where its dimensions are `dims` of the value's.

    Returns:
        A value, or the entries of a constant; None where there is no such thing.
    """
    base, given = program.view(value)
    if len(given) != len(dims):
        return None
    if base not in program.program.constants:
        direct = program.shape(base) == tuple(shape)
        return base if direct and given == dims else None
    data = program.program.constants[base]
    if data.shape == tuple(shape) and given == dims:
        return base
    index = [0] * data.ndim
    places: dict[int, int] = {}
    for own, d in zip(dims, given, strict=True):
        if d is not None and own is None and not _is_repeated(data, d):
            return None
        if d is not None and own is not None:
            places[own] = d
    kept = [places[d] for d in range(len(shape)) if d in places]
    picked = data[tuple(slice(None) if d in kept else 0 for d in range(len(index)))]
    picked = picked.transpose(np.argsort(np.argsort(kept))) if kept else picked
    sizes = [shape[d] if d in places else 1 for d in range(len(shape))]
    if picked.size != np.prod(sizes, dtype=np.int64):
        return None
    return np.ascontiguousarray(np.broadcast_to(picked.reshape(sizes), tuple(shape)))


def _is_repeated(data: np.ndarray, d: int) -> bool:
    return bool((data == data.take([0], axis=d)).all())

"""Chains: what follows a contraction and is affine in each output feature by parameters alone.

Inference batch norm, a bias, a scale: y -> a y + b, with one a and one b for each output feature
of the contraction's parameter, whatever the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from slim.graph.flat import Flat, Operand, Step, needed, read
from slim.graph.primitives import names
from slim.graph.rules.scope import bind, shape_of
from slim.graph.sites import Site, sites
from slim.graph.trace import Graph

MOVES = names("broadcast_in_dim expand_dims reshape rev squeeze transpose")
"""Changes of layout; where they change no size, each entry has one place before and after."""

CASTS = names(
    """
    convert_element_type copy copy_p optimization_barrier reduce_precision sharding_constraint
    stop_gradient
    """
)
"""The same entries, perhaps rounded."""

SUMS = names("add add_any sub")
PRODUCTS = names("mul div neg")


class Link(NamedTuple):
    """One step of a chain.

    Attributes:
        step: the step.
        place: which of its operands the chain's value is.
        other: what its other operand is made of: a literal or a value of parameters alone; None
            where it has no other.
        shape: the shape to give that: the result's rank, 1 where the operand is constant; or ().
    """

    step: Step
    place: int
    other: Operand | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A contraction, and the chain after it.

    Attributes:
        site: the contraction.
        step: the same.
        kernel: the path of its parameter.
        layout: the steps from the parameter to the contraction's operand.
        links: the steps from the contraction's result on, at least one.
        dims: for each of the result's dimensions that the parameter has too, in order, the
            dimension of the operand that it is.
    """

    site: Site
    step: Step
    kernel: str
    layout: tuple[Step, ...]
    links: tuple[Link, ...]
    dims: Mapping[int, int]

    @property
    def result(self) -> jax.ShapeDtypeStruct:
        """The shape and type of the value at the end."""
        return _result(self.links[-1].step)

    @property
    def dtype(self) -> Any:
        """The widest type that the chain computes in."""
        steps = [self.step, *(link.step for link in self.links)]
        return max((_result(step).dtype for step in steps), key=_width)

    def coefficients(self, values: Mapping[int, Any]) -> tuple[jax.Array, jax.Array]:
        """The chain's a and b, of the sizes of `dims`, in single precision or better.

        By composition, link by link: the chain's values at 0 and 1 would give a as a difference,
        which loses digits where b is the larger.
        """
        rank = len(self.result.shape)
        dtype = max([jnp.dtype(jnp.float32), self.dtype], key=_width)
        a, b = jnp.ones((1,) * rank, dtype), jnp.zeros((1,) * rank, dtype)
        for link in self.links:
            c = None
            if link.other is not None:
                c = jnp.asarray(read(link.other, values)).reshape(link.shape).astype(dtype)
            a, b = _composed(link.step.eqn.primitive.name, link.place, a, b, c)
        sizes = [n if dim in self.dims else 1 for dim, n in enumerate(self.result.shape)]
        vector = [self.result.shape[dim] for dim in self.dims]
        return jnp.broadcast_to(a, sizes).reshape(vector), jnp.broadcast_to(b, sizes).reshape(
            vector
        )

    def scaled(self, kernel: jax.Array, a: jax.Array) -> jax.Array:
        """The parameter whose contraction has the result times `a`."""
        order = np.argsort(list(self.dims.values()))
        shape = self.site.shapes[self._place]
        along = jax.lax.broadcast_in_dim(
            a.transpose(order), shape, sorted(int(dim) for dim in self.dims.values())
        )

        def laid_out(value: Any) -> Any:
            for step in self.layout:
                if step.eqn.primitive.name in MOVES:
                    (value,) = bind(step.eqn, [value])
            return value

        # A change of layout is a permutation of entries, so its transpose is its inverse.
        like = jax.ShapeDtypeStruct(kernel.shape, a.dtype)
        (factor,) = jax.linear_transpose(laid_out, like)(along)
        return (kernel.astype(a.dtype) * factor).astype(kernel.dtype)

    @property
    def _place(self) -> int:
        return next(i for i, path in enumerate(self.site.operands) if path is not None)


def chains(graph: Graph, program: Flat) -> dict[str, Chain]:
    """The chains of a graph's opened program, by the site's name, in program order."""
    finder = _Finder(graph, program)
    found = (finder.chain(site) for site in sites(graph))
    return {chain.site.name: chain for chain in found if chain is not None}


class _Finder:
    """The program, and who makes and reads what in it."""

    def __init__(self, graph: Graph, program: Flat) -> None:
        steps, _ = needed(program.steps, program.outputs)
        self.steps = {step.address: step for step in steps}
        self.makers = {out: step for step in steps for out in step.outs}
        self.params = dict(zip(program.inputs, graph.param_shapes, strict=False))
        self.readers: dict[int, list[Step | None]] = {}
        uses: list[tuple[Step | None, Operand]] = [(None, each) for each in program.outputs]
        uses += [(step, each) for step in steps for each in step.ins]
        for reader, operand in uses:
            if isinstance(operand, int):
                self.readers.setdefault(operand, []).append(reader)
        # Values that no data enters; True where a parameter does.
        self.known = dict.fromkeys(program.consts, False) | dict.fromkeys(self.params, True)
        for step in steps:
            ins = [each for each in step.ins if isinstance(each, int)]
            if not step.eqn.effects and all(each in self.known for each in ins):
                from_params = any(self.known[each] for each in ins)
                self.known.update(dict.fromkeys(step.outs, from_params))

    def chain(self, site: Site) -> Chain | None:
        """The chain after a site, if there is one that is worth folding."""
        step = self.steps.get(site.address)
        places = [i for i, path in enumerate(site.operands) if path is not None]
        if step is None or len(places) != 1:
            return None
        dims = _dims(step.eqn, places[0])
        layout = self.layout(step, step.ins[places[0]])
        if layout is None or not dims:
            return None
        links = self.links(step, dims)
        if not links:
            return None
        kernel = site.operands[places[0]]
        assert kernel is not None
        return Chain(site, step, kernel, layout, links, dims)

    def layout(self, reader: Step, operand: Operand) -> tuple[Step, ...] | None:
        """The steps from a parameter that nothing else reads to its `reader`."""
        steps: list[Step] = []
        while isinstance(operand, int) and self.readers[operand] == [reader]:
            if operand in self.params:
                return tuple(steps[::-1])
            reader = self.makers[operand]
            eqn = reader.eqn
            if eqn.primitive.name not in MOVES | CASTS or len(eqn.invars) != 1:
                return None
            before, after = _like(eqn.invars[0]), _result(reader)
            if before.size != after.size or not _floating(before) or not _floating(after):
                return None
            steps.append(reader)
            (operand,) = reader.ins
        return None

    def links(self, step: Step, dims: Mapping[int, int]) -> tuple[Link, ...]:
        """The longest chain after a step that ends where something other than a number enters.

        Numbers after that (the 3 of a hard swish) belong to what follows. Empty where the chain
        is one bias alone, which folding would only rename.
        """
        found: list[Link] = []
        ends: list[int] = []
        while (link := self.link(step, dims)) is not None:
            found.append(link)
            step = link.step
            if isinstance(link.other, int) and (
                self.known[link.other] or max(link.shape, default=1) > 1
            ):
                ends.append(len(found))
        found = found[: ends[-1]] if ends else []
        scales = any(each.step.eqn.primitive.name in PRODUCTS or each.place == 1 for each in found)
        return tuple(found) if scales or len(ends) > 1 else ()

    def link(self, before: Step, dims: Mapping[int, int]) -> Link | None:
        """The next link, if the one reader of a step's result is one."""
        readers = self.readers.get(before.outs[0], [])
        if len(readers) != 1 or readers[0] is None:
            return None
        step = readers[0]
        name = step.eqn.primitive.name
        if name not in SUMS | PRODUCTS | CASTS:
            return None
        out = _result(step)
        if out.shape != _result(before).shape or not _floating(out):
            return None
        place = step.ins.index(before.outs[0])
        if len(step.ins) == 1:
            return Link(step, place)
        if len(step.ins) != 2 or (name == "div" and place == 1):
            return None
        other = self.other(step.ins[1 - place], shape_of(step.eqn.invars[1 - place]))
        if other is None:
            return None
        varies = {dim for dim, size in enumerate(other[1]) if size > 1}
        if len(other[1]) not in (0, len(out.shape)) or not varies <= set(dims):
            return None
        return Link(step, place, *other)

    def other(
        self, operand: Operand, shape: Sequence[int]
    ) -> tuple[Operand, tuple[int, ...]] | None:
        """What an operand is made of before it was broadcast, and the shape to give that."""
        if isinstance(operand, Literal):
            return operand, tuple(shape)
        if operand not in self.known:
            return None
        maker = self.makers.get(operand)
        if maker is None or maker.eqn.primitive.name != "broadcast_in_dim":
            return operand, tuple(shape)
        dims = maker.eqn.params["broadcast_dimensions"]
        sizes = dict(zip(dims, shape_of(maker.eqn.invars[0]), strict=True))
        return maker.ins[0], tuple(sizes.get(dim, 1) for dim in range(len(shape)))


def _composed(name: str, place: int, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """The coefficients after one more operation, on `a y + b` and `c` in their places."""
    if name == "neg":
        return -a, -b
    if name == "mul":
        return a * c, b * c
    if name == "div":
        return a / c, b / c
    if name == "sub":
        return (a, b - c) if place == 0 else (-a, c - b)
    return (a, b) if c is None else (a, b + c)


def _dims(eqn: JaxprEqn, place: int) -> dict[int, int]:
    """The dimensions of a contraction's result that its operand at `place` has, in order."""
    if eqn.primitive.name == "conv_general_dilated" and place == 1:
        numbers = eqn.params["dimension_numbers"]
        return {numbers.out_spec[1]: numbers.rhs_spec[0]}
    if eqn.primitive.name != "dot_general":
        return {}
    contracted, batch = eqn.params["dimension_numbers"]
    free = [
        [dim for dim in range(len(shape_of(operand))) if dim not in (*contracted[i], *batch[i])]
        for i, operand in enumerate(eqn.invars)
    ]
    first = len(batch[0]) + (len(free[0]) if place == 1 else 0)
    return dict(enumerate(batch[place])) | dict(enumerate(free[place], first))


def _like(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


def _result(step: Step) -> jax.ShapeDtypeStruct:
    return _like(step.eqn.outvars[0])


def _floating(like: jax.ShapeDtypeStruct) -> bool:
    return bool(jnp.issubdtype(like.dtype, jnp.floating))


def _width(dtype: Any) -> int:
    return int(jnp.finfo(dtype).bits)

"""Split: a function cut at values inside it, into functions that follow one another.

    segments = split(graph, match(graph, "*/attention/*", "block")[1:])   before layers 1, 2, ...
    carried = segments.enter(*inputs)
    for segment in segments.at(params, *inputs):
        value, carried = segment(params, carried)     the value at each cut; last, the outputs

Which operation is where: a segment computes what its own value needs and no segment before it has
computed. So whoever stops at a cut has computed nothing that only later ones need, and no operation
runs twice but those of parameters and constants alone (casts, causal masks): these are computed in
every segment that needs them, so that all that crosses a cut is data, with the batch's dimension.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Jaxpr

from slim import paths
from slim.graph.flat import Address, Flat, Operand, Step, flatten, read, run
from slim.graph.inner import inner_jaxprs
from slim.graph.primitives import names
from slim.graph.taps import Tap, named
from slim.graph.trace import Graph, arrays, at_shapes

PyTree = Any
Carried = tuple[jax.Array, ...]


@dataclass(frozen=True, eq=False)
class Segment:
    """One part of a function, at one shape of its inputs.

    Attributes:
        name: the tap that it ends at, or `outputs`; of `split_outputs` the place in the outputs.
        params: the shapes of the parameters that it reads, by path.
        takes: what crosses into it; into the first, all array inputs.
        gives: what crosses out of it.
        run: (its parameters in the order of `params`, what crosses into it) -> (its value, what
            crosses out of it).
    """

    name: str
    params: Mapping[str, jax.ShapeDtypeStruct]
    takes: tuple[jax.ShapeDtypeStruct, ...]
    gives: tuple[jax.ShapeDtypeStruct, ...]
    run: Callable[[Sequence[Any], Sequence[Any]], tuple[PyTree, Carried]]

    def __call__(self, params: PyTree, carried: Sequence[Any]) -> tuple[PyTree, Carried]:
        """Its value and what crosses out of it; of the parameters only its own need be there.

        Raises:
            ValueError: a parameter is missing; what is carried is of other shapes.
        """
        found = [(leaf.shape, leaf.dtype) for leaf in carried]
        expected = [(leaf.shape, leaf.dtype) for leaf in self.takes]
        if found != expected:
            raise ValueError(
                f"segment {self.name!r} takes {_shapes(self.takes)}, but was given "
                f"{_shapes(carried)}; ask `at` for the segments at the shapes of these inputs"
            )
        return self.run(self.own(paths.flatten(params)), carried)

    def own(self, given: Mapping[str, Any]) -> list[Any]:
        """Its parameters of those by path, in the order in which `run` takes them.

        Raises:
            ValueError: one is missing.
        """
        for path in self.params:
            if path not in given:
                near = ", ".join(paths.nearest(path, given)) or "none"
                raise ValueError(
                    f"segment {self.name!r} lacks the parameter {path!r}; nearest given: {near}"
                )
        return [given[path] for path in self.params]


@dataclass(frozen=True, eq=False)
class Segments:
    """A function in parts.

    Attributes:
        names: of the segments.
        program: see `slim.graph.trace.at_shapes`.
    """

    names: tuple[str, ...]
    program: Callable[[Mapping[str, Any], tuple[Any, ...], dict[str, Any]], tuple[Segment, ...]]

    def at(self, params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[Segment, ...]:
        """The segments at the shapes of these inputs; traced once for each."""
        return self.program(paths.flatten(params), inputs, kwargs)

    def enter(self, *inputs: Any, **kwargs: Any) -> Carried:
        """What the first segment takes."""
        return tuple(arrays(inputs, kwargs))

    def __call__(self, params: PyTree, *inputs: Any, **kwargs: Any) -> list[PyTree]:
        """All segments in turn: the value of each."""
        values, carried = [], self.enter(*inputs, **kwargs)
        for segment in self.at(params, *inputs, **kwargs):
            value, carried = segment(params, carried)
            values.append(value)
        return values


def split(graph: Graph, boundaries: Iterable[str]) -> Segments:
    """The function cut at the taps `boundaries`; the last segment gives its outputs.

    Operations are the function's own: run one by one, or compiled alike, outputs are the same to
    the bit. A function with a derivative of its own, or a remat, that has a boundary inside is
    differentiated as a plain one.

    Args:
        graph: the function.
        boundaries: names of `taps` in program order, as what enters a residual block.

    Raises:
        ValueError: no tap has such a name; it is inside a scan, a loop or a branch; the boundaries
            are none, not in program order, or twice the same value.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> p, x = {"a": 2 * jnp.eye(2), "b": jnp.eye(2)}, jnp.ones((1, 2))
    >>> segments = split(trace(lambda p, x: x @ p["a"] @ p["b"] + x, p, x), ["a"])
    >>> [(segment.name, list(segment.params)) for segment in segments.at(p, x)]
    [('a', ['a']), ('outputs', ['b'])]
    >>> [value.tolist() for value in segments(p, x)]
    [[[2.0, 2.0]], [[3.0, 3.0]]]
    """
    cuts = tuple(boundaries)
    if not cuts:
        raise ValueError("boundaries: none given; name one or more taps to cut at")

    def program(this: Graph) -> tuple[Segment, ...]:
        found = [_outside_scans(named(this, name)) for name in cuts]
        inside = {tap.place.address[:end] for tap in found for end in range(len(tap.place.address))}
        flat = flatten(this, (inside | set(_plain(this.jaxpr.jaxpr, ()))).__contains__)
        wanted = {tap.name: [_number(flat, tap)] for tap in found}
        structure = jax.tree.structure(this.outputs)
        values = [jax.tree.structure(0)] * len(wanted) + [structure]
        if len(wanted) < len(cuts):
            twice = next(name for name in cuts if cuts.count(name) > 1)
            raise ValueError(f"boundaries: {twice!r} is given twice")
        return _cut(this, flat, {**wanted, "outputs": flat.outputs}, values)

    return Segments((*cuts, "outputs"), at_shapes(graph, program))


def split_outputs(graph: Graph) -> Segments:
    """The function cut at its outputs, a sequence: each segment gives the next of them.

    Of a network with exits, which gives the logits of each.

    Raises:
        ValueError: the outputs are no tuple or list of two or more; one of them needs nothing that
            those before it did not.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> p, x = {"a": 2 * jnp.eye(2), "b": jnp.eye(2)}, jnp.ones((1, 2))
    >>> def fn(p, x):
    ...     first = x @ p["a"]
    ...     return first, first @ p["b"] + x
    >>> segments = split_outputs(trace(fn, p, x))
    >>> [(segment.name, list(segment.params)) for segment in segments.at(p, x)]
    [('0', ['a']), ('1', ['b'])]
    """

    def program(this: Graph) -> tuple[Segment, ...]:
        if not isinstance(this.outputs, tuple | list) or len(this.outputs) < 2:
            raise ValueError(
                f"outputs of type {type(this.outputs).__name__}: cut at outputs, a function must "
                "give a tuple or list of two or more; use `split` to cut at values inside it"
            )
        flat = flatten(this, set(_plain(this.jaxpr.jaxpr, ())).__contains__)
        structures = [jax.tree.structure(each) for each in this.outputs]
        rest = iter(flat.outputs)
        wanted = {
            str(i): [next(rest) for _ in jax.tree.leaves(each)]
            for i, each in enumerate(this.outputs)
        }
        return _cut(this, flat, wanted, structures)

    segments = at_shapes(graph, program)
    count = len(segments({}, graph.inputs, graph.kwargs))
    return Segments(tuple(map(str, range(count))), segments)


_JITTED = names("jit pjit closed_call core_call")


def _plain(jaxpr: Jaxpr, prefix: Address) -> Iterator[Address]:
    """The addresses of calls that do nothing but run their jaxpr: without derivative or remat."""
    for i, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name in _JITTED:
            (inner,) = inner_jaxprs(eqn)
            yield (*prefix, i)
            yield from _plain(inner.jaxpr, (*prefix, i, 0))


def _outside_scans(tap: Tap) -> Tap:
    if tap.loops:
        raise ValueError(
            f"boundary {tap.name!r} is inside a scan of {tap.loops[0]} rounds ({tap.source}), "
            "which runs as a whole; cut before or after it, or write its rounds out"
        )
    return tap


def _number(flat: Flat, tap: Tap) -> Operand:
    """The value of a tap."""
    address, is_operand, which = tap.place
    if address in flat.calls:
        operands, results = flat.calls[address]
        return (operands if is_operand else results)[which]
    step = next(step for step in flat.steps if step.address == address)
    return (step.ins if is_operand else step.outs)[which]


def _cut(
    graph: Graph, flat: Flat, wanted: Mapping[str, Sequence[Operand]], values: Sequence[Any]
) -> tuple[Segment, ...]:
    """A segment for each group of values in `wanted`, of the structure that `values` says."""
    count = len(graph.param_shapes)
    data = flat.inputs[count:]
    fixed = _fixed(flat, data)
    done, parts = set(data), []
    for i, (name, wants) in enumerate(wanted.items()):
        steps, reads = _missing(flat.steps, wants, done, effects=i == len(wanted) - 1)
        made = {number for step in steps for number in step.outs} - fixed
        if i and not made and name != "outputs":
            raise ValueError(
                f"{name!r} is had as soon as what comes before it, {list(wanted)[i - 1]!r}, or "
                "sooner: give cuts in program order, each value once"
            )
        done |= made
        parts.append((steps, reads, made))
    # What crosses, from the last cut to the first.
    crossing: list[tuple[int, ...]] = [()]
    for _, reads, made in parts[:0:-1]:
        crossing.append(tuple(sorted((reads - fixed | set(crossing[-1])) - made)))
    crossing.append(data)
    crossing.reverse()
    avals = _avals(graph, flat)
    shapes = dict(zip(flat.inputs, graph.param_shapes.items(), strict=False))
    segments = []
    for i, (name, wants) in enumerate(wanted.items()):
        steps, reads, _ = parts[i]
        own = tuple(number for number in flat.inputs[:count] if number in reads)
        takes, gives = (
            tuple(jax.ShapeDtypeStruct(avals[n].shape, avals[n].dtype) for n in crossing[j])
            for j in (i, i + 1)
        )
        consts = {number: value for number, value in flat.consts.items() if number in reads}
        part = _Part(steps, consts, own, crossing[i], crossing[i + 1], tuple(wants), values[i])
        segments.append(Segment(name, dict(shapes[n] for n in own), takes, gives, part))
    return tuple(segments)


@dataclass(frozen=True)
class _Part:
    """What a segment runs."""

    steps: Sequence[Step]
    consts: Mapping[int, Any]
    params: Sequence[int]
    takes: Sequence[int]
    gives: Sequence[int]
    value: Sequence[Operand]
    structure: Any

    def __call__(self, params: Sequence[Any], carried: Sequence[Any]) -> tuple[PyTree, Carried]:
        values = dict(self.consts)
        values.update(zip(self.params, params, strict=True))
        values.update(zip(self.takes, carried, strict=True))
        run(self.steps, values)
        value = jax.tree.unflatten(self.structure, [read(each, values) for each in self.value])
        return value, tuple(values[number] for number in self.gives)


def _fixed(flat: Flat, data: Collection[int]) -> set[int]:
    """The values that are made of parameters and constants alone, without an effect."""
    fixed = {*flat.inputs, *flat.consts} - set(data)
    for step in flat.steps:
        if not step.eqn.effects and all(
            operand in fixed for operand in step.ins if isinstance(operand, int)
        ):
            fixed.update(step.outs)
    return fixed


def _missing(
    steps: Sequence[Step], wants: Sequence[Operand], done: set[int], effects: bool
) -> tuple[tuple[Step, ...], set[int]]:
    """The steps that `wants` needs beside what is done, and what is read.

    With `effects`, those too that have one and were not needed so far.
    """
    reads = {operand for operand in wants if isinstance(operand, int)}
    kept = []
    for step in reversed(steps):
        ran = bool(step.outs) and done.issuperset(step.outs)
        if not ran and ((effects and step.eqn.effects) or not reads.isdisjoint(step.outs)):
            kept.append(step)
            reads.update(operand for operand in step.ins if isinstance(operand, int))
    return tuple(kept[::-1]), reads


def _avals(graph: Graph, flat: Flat) -> dict[int, Any]:
    """The shape and type of every value that is no constant, by number."""
    avals = {n: var.aval for n, var in zip(flat.inputs, graph.jaxpr.jaxpr.invars, strict=True)}
    for step in flat.steps:
        avals.update((n, var.aval) for n, var in zip(step.outs, step.eqn.outvars, strict=True))
    return avals


def _shapes(leaves: Iterable[Any]) -> str:
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"

"""Depth: whole residual blocks, found in the traced program and left out of it.

A residual block is an addition `x + f(x)` whose branch f has parameters that nothing else uses,
with what is done to every such sum before it enters the next block: the normalization of a
Transformer that normalizes last, a ReLU. Without the block, x stands in its place. Blocks inside a
scan, a remat or a `cond` are not looked for.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from slim import paths
from slim.graph import Graph
from slim.graph.cost import CONTRACTIONS
from slim.graph.rules.scope import bind, shape_of
from slim.graph.stored_json import Fields, Stored, exactly, record, row
from slim.graph.trace import arrays, as_written, at_shapes
from slim.prune.evidence import is_kernel

PyTree = Any


@dataclass(frozen=True)
class Block:
    """A residual branch that may be left out.

    Attributes:
        name: the path of its first kernel, by which it is known in every graph of the model.
        params: the paths of the parameters that nothing else uses.
    """

    name: str
    params: tuple[str, ...]


@dataclass(frozen=True)
class DepthPlan(Stored):
    """Which residual blocks are left out; it stands alone, as `slim.graph.Plan` does.

    Attributes:
        blocks: those of `residual_blocks`.
    """

    KIND: ClassVar[str] = "depth"
    FIELDS: ClassVar[Fields] = {
        "blocks": row(record(Block, name=exactly(str), params=row(exactly(str))))
    }

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class _Found:
    block: Block
    skip: Any
    result: Var


def residual_blocks(graph: Graph) -> tuple[Block, ...]:
    """The residual blocks of a function, in program order.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> def fn(p, x):
    ...     x = x + jnp.tanh(x @ p["a"])
    ...     return (x + jnp.tanh(x @ p["b"])) @ p["head"]
    >>> w = jnp.ones((2, 2))
    >>> [block.name for block in residual_blocks(trace(fn, {"a": w, "b": w, "head": w}, w))]
    ['a', 'b']
    """
    return tuple(found.block for found in _find(_flat(graph)))


def drop_blocks(graph: Graph, names: Collection[str]) -> Callable[..., Any]:
    """The function of `graph` without the named blocks, for parameters from `drop_params`.

    As with `slim.graph.replay`, `graph` may be of a training loss, and inputs may have other
    shapes. New values of dropped parameters (batch statistics) are None in the output.

    Raises:
        ValueError: no block has such a name.
    """
    program = at_shapes(graph, lambda this: _without(this, names))

    def small(params: PyTree, *inputs: Any, **kwargs: Any) -> Any:
        given = paths.flatten(params)
        return program(given, inputs, kwargs)(given, arrays(inputs, kwargs))

    return small


def drop_params(blocks: Collection[Block], tree: PyTree) -> PyTree:
    """`tree` with None for each leaf that stands for a parameter of one of the blocks.

    A leaf stands for the parameter whose path its own path ends in, so that optimizer states and
    moving averages shrink alike.
    """
    dropped = {path for block in blocks for path in block.params}

    def kept(path: str, leaf: Any) -> Any:
        parts = path.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        return None if any(ending in dropped for ending in endings) else leaf

    return paths.map_with_path(kept, tree)


@dataclass(frozen=True)
class _Program:
    """A graph with its calls inlined: the parameters' variables by path, and the outputs'."""

    jaxpr: Jaxpr
    consts: Sequence[Any]
    params: Mapping[str, Var]
    inputs: Sequence[Var]
    outputs: Mapping[str, Any]
    structure: Any

    @property
    def results(self) -> list[Any]:
        """The outputs that are no parameter's new value."""
        return [var for path, var in self.outputs.items() if self.updated(path) is None]

    def updated(self, path: str) -> str | None:
        """The parameter whose new value the output at `path` is."""
        parts = path.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((ending for ending in endings if ending in self.params), None)


_INLINED = {"jit", "pjit", "closed_call", "core_call"}


def _flat(graph: Graph) -> _Program:
    def run(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        values = {**dict(zip(jaxpr.constvars, consts, strict=True))}
        values.update(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            ins = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
            if eqn.primitive.name in _INLINED:
                inner = eqn.params.get("jaxpr") or eqn.params["call_jaxpr"]
                outs = run(inner.jaxpr, inner.consts, ins)
            else:
                with as_written(eqn):
                    outs = bind(eqn, ins)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]

    closed = graph.jaxpr
    flat = jax.make_jaxpr(lambda *args: run(closed.jaxpr, closed.consts, args))(*closed.in_avals)
    count = len(graph.param_shapes)
    return _Program(
        jaxpr=flat.jaxpr,
        consts=flat.consts,
        params=dict(zip(graph.param_shapes, flat.jaxpr.invars, strict=False)),
        inputs=flat.jaxpr.invars[count:],
        outputs=dict(zip(paths.flatten(graph.outputs), flat.jaxpr.outvars, strict=True)),
        structure=jax.tree.structure(graph.outputs),
    )


def _needed(
    jaxpr: Jaxpr, wanted: Sequence[Any], stop: Collection[Any], instead: Mapping[Any, Any]
) -> tuple[list[JaxprEqn], set[Any]]:
    """The equations that `wanted` needs, in order, and the variables that they read.

    Nothing before a variable in `stop` is needed; a variable in `instead` is another one.
    """
    read: set[Any] = set()

    def read_all(operands: Sequence[Any]) -> None:
        for operand in operands:
            while not isinstance(operand, Literal) and operand in instead:
                operand = instead[operand]
            if not isinstance(operand, Literal):
                read.add(operand)

    read_all(wanted)
    equations = []
    for eqn in reversed(jaxpr.eqns):
        if any(var in read and var not in stop for var in eqn.outvars):
            equations.append(eqn)
            read_all(eqn.invars)
    return equations[::-1], read


def _find(program: _Program) -> list[_Found]:
    _, all_read = _needed(program.jaxpr, program.results, (), {})

    def found(skip: Any, result: Var) -> _Found | None:
        # Parameters that the rest of the program uses as well stay.
        _, still = _needed(program.jaxpr, program.results, (), {result: skip})
        own = [p for p, var in program.params.items() if var in all_read - still]
        kernels = [path for path in own if is_kernel(path, program.params[path].aval)]
        return _Found(Block(kernels[0], tuple(own)), skip, result) if kernels else None

    sums = [each for each in _sums(program) if found(*each)]
    return [each for pair in _left(program, sums) if (each := found(*pair))]


def _sums(program: _Program) -> list[tuple[Any, Var]]:
    """The x and the x + f(x) of every residual addition, in program order."""
    jaxpr, found = program.jaxpr, []
    parameters = set(program.params.values())
    for eqn in jaxpr.eqns:
        if eqn.primitive.name not in ("add", "add_any"):
            continue
        for skip, branch in (eqn.invars, eqn.invars[::-1]):
            if isinstance(skip, Literal) or isinstance(branch, Literal) or skip in parameters:
                continue
            if shape_of(skip) != shape_of(branch):
                continue
            _, read = _needed(jaxpr, [branch], {skip}, {})
            if skip in read:
                found.append((skip, eqn.outvars[0]))
                break
    return found


def _left(program: _Program, sums: Sequence[tuple[Any, Var]]) -> Iterator[tuple[Any, Var]]:
    """Each x, and what its block leaves: the sum, or what the next block's x is of it.

    The last block leaves what the one before it left by the same operations.
    """
    change: list[str] = []
    for i, (skip, result) in enumerate(sums):
        following = [after for after, _ in sums[i + 1 :]]
        candidates = following[:1] or [var for eqn in program.jaxpr.eqns for var in eqn.outvars]
        for var in candidates:
            between = _between(program, result, var)
            if between and (following or between == change):
                yield skip, var
                break
        else:
            between = []
            yield skip, result
        change = between


def _between(program: _Program, start: Var, end: Any) -> list[str]:
    """The primitives from one value to another of its shape that replaces it everywhere after.

    Empty if it does not, or if there is a contraction on the way.
    """
    if isinstance(end, Literal) or shape_of(end) != shape_of(start) or end is start:
        return []
    equations, read = _needed(program.jaxpr, [end], {start}, {})
    names = [eqn.primitive.name for eqn in equations]
    allowed = {start, *program.params.values(), *program.jaxpr.constvars}
    made = {var for eqn in equations for var in eqn.outvars}
    if start not in read or not read <= allowed | made | {end} or CONTRACTIONS.keys() & names:
        return []
    _, after = _needed(program.jaxpr, program.results, {end}, {})
    return [] if start in after else names


def _without(graph: Graph, names: Collection[str]) -> Callable[..., Any]:
    program = _flat(graph)
    known = {found.block.name: found for found in _find(program)}
    for name in names:
        if name not in known:
            near = ", ".join(paths.nearest(name, known) or sorted(known)[:3])
            raise ValueError(f"no residual block is named {name!r}; nearest: {near}")
    instead = {known[name].result: known[name].skip for name in names}
    dropped = {program.params[path] for name in names for path in known[name].block.params}

    def lost(var: Any) -> bool:
        return not dropped.isdisjoint(_needed(program.jaxpr, [var], (), instead)[1])

    wanted = {
        path: None if program.updated(path) is not None and lost(var) else var
        for path, var in program.outputs.items()
    }
    present = [var for var in wanted.values() if var is not None]
    equations, _ = _needed(program.jaxpr, present, (), instead)

    def run(params: Mapping[str, Any], inputs: Sequence[Any]) -> Any:
        values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        values.update({program.params[path]: leaf for path, leaf in params.items()})
        values.update(zip(program.inputs, inputs, strict=True))

        def read(operand: Any) -> Any:
            if isinstance(operand, Literal):
                return operand.val
            while operand in instead:
                operand = instead[operand]
            return operand.val if isinstance(operand, Literal) else values[operand]

        for eqn in equations:
            with as_written(eqn):
                outs = bind(eqn, [read(operand) for operand in eqn.invars])
            values.update(zip(eqn.outvars, outs, strict=True))
        results = [None if var is None else read(var) for var in wanted.values()]
        return jax.tree.unflatten(program.structure, results)

    return run

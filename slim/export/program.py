"""The representation that every writer reads: nodes in order, constants beside them.

made = passes.standard(program(fn, variables, x))
made(x)                         equal to fn(variables, x)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from slim import paths
from slim.export.fake_quant import NAME, Grid, compute
from slim.export.patterns.table import PATTERNS
from slim.export.retraced import retraced
from slim.graph import Graph, trace
from slim.graph.inner import CALLS, inner_jaxprs, scan_split
from slim.graph.rules.scope import bind, shape_of
from slim.graph.trace import as_written, source_line

PyTree = Any


class Unsupported(ValueError):
    """An operation that a target has nothing for."""

    def __init__(self, op: str, line: str, target: str) -> None:
        super().__init__(
            f"target {target!r} cannot express primitive {op!r} ({line}); write that line with "
            "other operations, or choose another target"
        )


class Node(NamedTuple):
    """One operation.

    Attributes:
        op: a JAX primitive's name, "fake_quant", or a pattern of `slim.export.patterns`.
        ins: numbers of values.
        outs: numbers of values.
        params: the operation's.
        line: of user code.
        primitive: what computes it; None of a fake_quant or a pattern.
    """

    op: str
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    params: Mapping[str, Any]
    line: str
    primitive: Any = None


@dataclass(frozen=True, eq=False)
class Program:
    """A function of arrays.

    Attributes:
        nodes: in an order in which they can run.
        types: of every value; sizes may be symbols of `jax.export`.
        constants: parameters and literals, by value.
        names: of parameters, their paths.
        inputs: (name, value) each.
        outputs: likewise.
    """

    nodes: tuple[Node, ...]
    types: Mapping[int, jax.ShapeDtypeStruct]
    constants: Mapping[int, np.ndarray]
    names: Mapping[int, str]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]

    def __call__(self, *inputs: Any) -> tuple[jax.Array, ...]:
        """The outputs; may be compiled."""
        return self.values([value for _, value in self.outputs], *inputs)

    def values(self, wanted: Iterable[int], *inputs: Any) -> tuple[jax.Array, ...]:
        """Any values, by their numbers.

        Raises:
            ValueError: another number of inputs, or sizes other than the Program's.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{len(inputs)} inputs for a program of {len(self.inputs)}")
        wanted = list(wanted)
        known: dict[int, Any] = dict(self.constants)
        sizes: dict[str, Any] = {}
        for (name, value), given in zip(self.inputs, inputs, strict=True):
            known[value] = jnp.asarray(given)
            _match(name, self.types[value].shape, known[value].shape, sizes)
        for node in needed(self.nodes, wanted):
            known |= zip(node.outs, run(node, [known[i] for i in node.ins], sizes), strict=True)
        return tuple(jnp.asarray(known[value]) for value in wanted)


def needed(nodes: Sequence[Node], wanted: Iterable[int]) -> tuple[Node, ...]:
    """The nodes that some values need, in order."""
    read, kept = set(wanted), []
    for node in reversed(nodes):
        if not read.isdisjoint(node.outs):
            kept.append(node)
            read.update(node.ins)
    return tuple(kept[::-1])


def run(node: Node, operands: Sequence[Any], sizes: Mapping[str, Any]) -> list[Any]:
    """A node's results, where the symbols have the values of `sizes`."""
    operands = [jnp.asarray(each) for each in operands]
    params = {key: _sized(each, sizes) for key, each in node.params.items()}
    if node.primitive is not None:
        bound = node.primitive.get_bind_params(params)
        made = node.primitive.bind(*operands, **bound)
        return list(made) if node.primitive.multiple_results else [made]
    if node.op == "fake_quant":
        grid = Grid(params["scale"], params["zero_point"], params["format"])
        return [compute(operands[0], grid)]
    return [PATTERNS[node.op].compute(*operands, **params)]


def is_symbol(size: Any) -> bool:
    """Whether a size is known only when the program runs."""
    return bool(jax.export.is_symbolic_dim(size))


def _sized(param: Any, sizes: Mapping[str, Any]) -> Any:
    if isinstance(param, tuple) and not hasattr(param, "_fields"):
        return tuple(_sized(each, sizes) for each in param)
    if isinstance(param, ClosedJaxpr):
        return retraced(
            param,
            [_sized(x.shape, sizes) for x in param.in_avals],
            lambda i: {k: _sized(x, sizes) for k, x in param.jaxpr.eqns[i].params.items()},
        )
    return param._evaluate(sizes) if is_symbol(param) else param


def _match(name: str, shape: Sequence[Any], given: Sequence[Any], sizes: dict[str, Any]) -> None:
    fits = len(shape) == len(given)
    for own, size in zip(shape, given, strict=False):
        fits &= sizes.setdefault(str(own), size) == size if is_symbol(own) else own == size
    if not fits:
        raise ValueError(f"input {name!r} has shape {tuple(given)}; the program takes {shape}")


def program(
    fn: Callable[..., Any],
    variables: PyTree,
    *inputs: Any,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("logits",),
    batch: str | int = "batch",
) -> Program:
    """The program of `fn(variables, *inputs)`, with the variables as constants.

    Calls are opened, scans unrolled, stacks concatenated.

    Args:
        fn: a pure function of a pytree of arrays.
        variables: their values.
        inputs: arrays or shapes; the first dimension is the batch.
        input_names: one for each of `inputs`.
        output_names: one for each leaf of the result.
        batch: the size of the first dimension, or a name: then it may be any.

    Raises:
        ValueError: not as many names as inputs or outputs; the function cannot be traced for any
            batch.

    >>> made = program(lambda w, x: x @ w, np.eye(2, dtype=np.float32), np.ones((1, 2), np.float32))
    >>> made(np.ones((3, 2), np.float32))[0].shape
    (3, 2)
    """
    size = jax.export.symbolic_shape(batch)[0] if isinstance(batch, str) else batch
    shapes = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in inputs]
    names = {"input_names": input_names, "output_names": output_names}
    try:
        return of_shapes(fn, variables, *shapes, **names)
    except (jax.errors.JAXTypeError, jax.errors.ConcretizationTypeError, TypeError) as error:
        if not isinstance(batch, str):
            raise
        raise ValueError(
            f"the function cannot be traced for any batch ({error}); give batch=1, or another "
            "number"
        ) from error


def of_shapes(
    fn: Callable[..., Any],
    variables: PyTree,
    *shapes: jax.ShapeDtypeStruct,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] = ("logits",),
) -> Program:
    """As `program`, of inputs of these shapes, which may have symbols already."""
    graph = trace(_opened(trace(fn, variables, *shapes)), variables, *shapes)
    names = input_names or [f"input_{i}" for i in range(len(shapes))]
    return _built(graph, variables, names, output_names)


def _built(
    graph: Graph, variables: PyTree, input_names: Sequence[str], output_names: Sequence[str]
) -> Program:
    jaxpr, given = graph.jaxpr.jaxpr, paths.flatten(variables)
    data = jaxpr.invars[len(given) :]
    for what, given_names, found in (
        ("input", input_names, data),
        ("output", output_names, jaxpr.outvars),
    ):
        if len(given_names) != len(found):
            raise ValueError(
                f"{what}_names are {tuple(given_names)}; there are {len(found)} {what}s"
            )
    numbers: dict[Var, int] = {}
    types: dict[int, jax.ShapeDtypeStruct] = {}
    constants: dict[int, np.ndarray] = {}

    def add(var: Any, value: Any = None) -> int:
        number = len(types)
        types[number] = jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)
        if value is not None:
            constants[number] = np.asarray(value, var.aval.dtype)
        if isinstance(var, Var):
            numbers[var] = number
        return number

    def read(var: Any) -> int:
        return add(var, var.val) if isinstance(var, Literal) else numbers[var]

    names = {add(v, x): path for v, (path, x) in zip(jaxpr.invars, given.items(), strict=False)}
    inputs = tuple((name, add(var)) for name, var in zip(input_names, data, strict=True))
    for var, value in zip(jaxpr.constvars, graph.jaxpr.consts, strict=True):
        add(var, value)
    nodes = []
    for eqn in jaxpr.eqns:
        ins = tuple(map(read, eqn.invars))
        nodes.append(_node(eqn, ins, tuple(map(add, eqn.outvars))))
    outputs = tuple((name, read(v)) for name, v in zip(output_names, jaxpr.outvars, strict=True))
    return Program(tuple(nodes), types, constants, names, inputs, outputs)


def _node(eqn: JaxprEqn, ins: tuple[int, ...], outs: tuple[int, ...]) -> Node:
    line = source_line(eqn)
    if eqn.primitive.name == NAME:
        params = eqn.params["grid"].params(shape_of(eqn.invars[0]))
        return Node("fake_quant", ins, outs, params, line)
    return Node(eqn.primitive.name, ins, outs, dict(eqn.params), line, eqn.primitive)


def _opened(graph: Graph) -> Callable[..., Any]:
    """The graph's function without calls, scans and stacks."""
    jaxpr, structure = graph.jaxpr, jax.tree.structure(graph.outputs)

    def fn(variables: PyTree, *inputs: Any) -> Any:
        args = [*jax.tree.leaves(variables), *inputs]
        return jax.tree.unflatten(structure, _evaluate(jaxpr.jaxpr, jaxpr.consts, args))

    return fn


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    for eqn in jaxpr.eqns:
        operands = [read(var) for var in eqn.invars]
        with as_written(eqn):
            if eqn.primitive.name in CALLS:
                (inner,) = inner_jaxprs(eqn)
                outs = _evaluate(inner.jaxpr, inner.consts, operands)
            elif eqn.primitive.name == "scan":
                outs = _unrolled(eqn, operands)
            elif eqn.primitive.name == "stack":
                axis = eqn.params["axis"]
                rows = [jax.lax.expand_dims(each, (axis,)) for each in operands]
                outs = [jax.lax.concatenate(rows, axis)]
            else:
                outs = bind(eqn, operands)
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _unrolled(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    (inner,) = inner_jaxprs(eqn)
    consts, carried, _ = scan_split(eqn)
    state, stacked = list(operands[consts : consts + carried]), operands[consts + carried :]
    rounds = range(int(eqn.params["length"]))
    made = []
    for i in reversed(rounds) if eqn.params["reverse"] else rounds:
        rows = [jax.lax.index_in_dim(each, i, keepdims=False) for each in stacked]
        outs = _evaluate(inner.jaxpr, inner.consts, [*operands[:consts], *state, *rows])
        state = outs[:carried]
        made.append(outs[carried:])
    made = made[::-1] if eqn.params["reverse"] else made
    return [*state, *(jnp.stack(each) for each in zip(*made, strict=True))]

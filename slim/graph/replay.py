"""Replay: the same program on the small parameters.

The function is traced at the original shapes of its parameters (so that a model's own checks pass)
and at the shapes of the data that it is called with; the axes of that jaxpr are inferred from the
plan's; and the jaxpr is evaluated on the small parameters, with the parameters of its primitives
that carry sizes rewritten. It traces under `jit`, `grad`, `vmap` like any function and adds
nothing to the compiled program.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal, Var

from slim import paths
from slim.graph.axes import Axis
from slim.graph.infer import constants, infer
from slim.graph.neutral import freeze_losses
from slim.graph.plan import Plan, check
from slim.graph.rules import rule_of
from slim.graph.rules.kept import Kept
from slim.graph.rules.scope import Resize, Scope, bind
from slim.graph.trace import Graph, arrays, as_written, at_shapes

PyTree = Any


def replay(graph: Graph, plan: Plan) -> Callable[..., Any]:
    """The function of `graph`, for the parameters that `shrink(plan, params)` gives.

    `graph` may be of any function of the plan's parameters, not only of the one that the plan was
    made from: a training loss with dropout and new batch statistics as well as the evaluation.
    The result takes inputs of other shapes too (another batch size or sequence length): the
    function is then traced again, once per shape. Random bits are drawn at the small shapes.

    Raises:
        ValueError: the plan is for other parameters; or it cuts what cannot be cut in this
            function, with the reason.
    """
    check(plan, graph.params)
    program = at_shapes(graph, lambda this: _program(this, plan))

    def small(params: PyTree, *inputs: Any, **kwargs: Any) -> Any:
        check(plan, params, small=True)
        run = program(paths.flatten(params), inputs, kwargs)
        return run([*jax.tree.leaves(params), *arrays(inputs, kwargs)])

    return small


def _program(graph: Graph, plan: Plan) -> Callable[[Sequence[Any]], Any]:
    atoms, dims = plan.axes()
    inferred = infer(graph, dims)
    freeze_losses(inferred)
    resize = Resize(_kept(atoms, plan), lambda scope, args: _run(scope, resize, args))
    structure = jax.tree.structure(graph.outputs)
    return lambda args: jax.tree.unflatten(structure, _run(inferred.scope, resize, args))


def _kept(groups: Mapping[str, Axis], plan: Plan) -> Kept:
    """What the plan keeps of each atom of its groups, refined as far as a graph needed."""
    of_leaf: dict[Axis, np.ndarray] = {}
    chosen_by: dict[Axis, str] = {}
    for name, axis in groups.items():
        kept = np.asarray(plan.keep.get(name, range(plan.sizes[name])))
        for leaf, indices in _assign(axis, kept, name):
            if len(indices) < leaf.size and leaf.reasons:
                raise ValueError(
                    f"the plan cuts {name!r}, which this function does not allow: "
                    f"{'; '.join(reason() for reason in leaf.reasons)}"
                )
            if leaf in of_leaf and not np.array_equal(of_leaf[leaf], indices):
                raise ValueError(
                    f"the plan cuts {name!r} and {chosen_by[leaf]!r} differently, but this "
                    "function needs both cut alike; make the plan from it, or from both"
                )
            of_leaf[leaf], chosen_by[leaf] = indices, name
    return Kept({leaf: kept for leaf, kept in of_leaf.items() if len(kept) < leaf.size})


def _assign(axis: Axis, kept: np.ndarray, name: str) -> list[tuple[Axis, np.ndarray]]:
    """What keeping the indices `kept` of an axis keeps of each atom in it."""
    axis = axis.find()
    if axis.kind == "atom":
        return [(axis, kept)]
    if axis.kind == "sum":
        out, start = [], 0
        for part in axis.parts:
            inside = kept[(kept >= start) & (kept < start + part.size)] - start
            out += _assign(part, inside, name)
            start += part.size
        return out
    coordinates = np.unravel_index(kept, [part.size for part in axis.parts])
    columns = [np.unique(each) for each in coordinates]
    if np.prod([len(column) for column in columns]) != len(kept):
        raise ValueError(
            f"the plan cuts {name!r} index by index, but this function needs it cut as "
            f"{axis!r}; make the plan from this function"
        )
    return [
        pair
        for part, column in zip(axis.parts, columns, strict=True)
        for pair in _assign(part, column, name)
    ]


def _run(scope: Scope, resize: Resize, args: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr on small inputs."""
    kept = resize.kept
    values: dict[Var, Any] = {
        var: _cut(value, [kept(axis) for axis in scope.dims[var]])
        for var, value in constants(scope)
    }
    values.update(zip(scope.jaxpr.invars, args, strict=True))

    def read(operand: Any) -> Any:
        return operand.val if isinstance(operand, Literal) else values[operand]

    for i, step in enumerate(scope.steps()):
        eqn = step.eqn
        operands = _varying([read(var) for var in eqn.invars])
        cut = any(kept.cuts(dims) for dims in (*step.ins, *step.outs)) or any(
            _cuts(inner, kept) for inner in step.inner
        )
        with as_written(eqn):
            if cut:
                results = rule_of(eqn.primitive.name).replay(resize, step, operands)
            else:
                results = bind(eqn, operands)
        for each in scope.corrections.get(i, ()):
            results = [each.add(kept, read, results[0])]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in scope.jaxpr.outvars]


def _varying(operands: list[Any]) -> list[Any]:
    """Operands that vary alike over the mesh axes of an enclosing `shard_map`.

    The jaxpr was traced outside of it, so it lacks the casts that JAX would have put in.
    """
    over = [_mesh_axes(operand) for operand in operands]
    every = frozenset().union(*over)
    return [
        jax.lax.pcast(operand, tuple(every - own), to="varying") if every - own else operand
        for operand, own in zip(operands, over, strict=True)
    ]


def _mesh_axes(value: Any) -> frozenset[Any]:
    """The mesh axes over which a value varies inside a `shard_map`."""
    kind = getattr(jax.typeof(value), "manual_axis_type", None)
    return getattr(kind, "varying", frozenset())


def _cuts(scope: Scope, kept: Kept) -> bool:
    """Whether a plan cuts anything inside a jaxpr."""
    return any(kept.cuts(dims) for dims in scope.dims.values()) or any(
        _cuts(inner, kept) for scopes in scope.inner.values() for inner in scopes
    )


def _cut(value: Any, kept: Sequence[np.ndarray | None]) -> Any:
    for dim, indices in enumerate(kept):
        if indices is not None:
            value = value.take(indices, axis=dim)
    return value

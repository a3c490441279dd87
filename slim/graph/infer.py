"""Pass one over a graph: the axes of every value, nested jaxprs included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

from slim import paths
from slim.graph import axes
from slim.graph.axes import Dims
from slim.graph.rules import rule_of
from slim.graph.rules.flow import Flow
from slim.graph.rules.scope import Scope, fresh, shape_of
from slim.graph.trace import Graph, is_array


@dataclass(frozen=True)
class Inferred:
    """The axes of a graph.

    Attributes:
        graph: the graph.
        scope: the axes of its values.
        params: the axes of its parameters, by path.
    """

    graph: Graph
    scope: Scope
    params: Mapping[str, Dims]


def infer(graph: Graph, params: Mapping[str, Dims] | None = None) -> Inferred:
    """The axes of every value of `graph`.

    Data is frozen, and what has no rule. Outputs are frozen too, unless `params` is given (then
    they come out small). An output that is a parameter's new value, batch statistics say, has the
    parameter's axes; it is one if its path ends in the parameter's (a path with a name in it, not
    only positions) and shape and type are the parameter's.

    Args:
        graph: the graph.
        params: the axes that parameters are known to have, by path; those of a plan.
    """
    shapes = graph.param_shapes
    of_params = {path: fresh(shape.shape) for path, shape in shapes.items()}
    for path, dims in (params or {}).items():
        for axis, known in zip(of_params[path], dims, strict=True):
            axes.unify(axis, known, _said(f"parameter {path}"))
    jaxpr = graph.jaxpr.jaxpr
    scope = walk(
        jaxpr,
        graph.jaxpr.consts,
        [*of_params.values(), *_data(graph)],
        derivatives=True,
    )
    names = list(paths.flatten(graph.outputs))
    for name, var, dims in zip(names, jaxpr.outvars, scope.outs, strict=True):
        updated = _updated(name, var, shapes)
        if updated is not None:
            for axis, known in zip(dims, of_params[updated], strict=True):
                axes.unify(axis, known, _said(f"output {name} and the parameter that it updates"))
        elif params is None:
            for axis in dims:
                axes.freeze(axis, _said(f"output {name}" if name else "the output"))
    return Inferred(graph, scope, of_params)


def _said(text: str) -> Callable[[], str]:
    return partial(str, text)


def _data(graph: Graph) -> list[Dims]:
    dims = []
    for path, leaf in paths.flatten((graph.inputs, graph.kwargs)).items():
        if is_array(leaf):
            dims.append(fresh(np.shape(leaf)))
            for axis in dims[-1]:
                axes.freeze(axis, _said(f"input {path.partition('/')[2]}"))
    return dims


def _updated(name: str, var: Any, params: Mapping[str, jax.ShapeDtypeStruct]) -> str | None:
    """The path of the parameter whose new value an output is, if it is one."""
    parts = name.split("/")
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        like = params.get(path)
        named = any(part and not part.isdigit() for part in parts[start:])
        if (
            like is not None
            and named
            and (like.shape, like.dtype) == (shape_of(var), var.aval.dtype)
        ):
            return path
    return None


def walk(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    ins: Sequence[Dims],
    *,
    derivatives: bool,
    callers: tuple[JaxprEqn, ...] = (),
) -> Scope:
    """The axes of every value of a jaxpr whose inputs have the axes `ins`.

    With `derivatives`, the rules of custom derivatives are walked too. `callers` are the equations
    that the jaxpr is nested in, inside out.
    """
    scope = Scope(jaxpr, tuple(consts), callers)
    for var in jaxpr.constvars:
        scope.dims[var] = fresh(shape_of(var))
    scope.dims.update(zip(jaxpr.invars, ins, strict=True))
    for i, eqn in enumerate(jaxpr.eqns):
        flow = Flow(eqn, callers, partial(walk, callers=(eqn, *callers)), derivatives)
        outs = rule_of(eqn.primitive.name).axes(flow, eqn, [scope.of(var) for var in eqn.invars])
        scope.dims.update(zip(eqn.outvars, outs, strict=True))
        if flow.scopes:
            scope.inner[i] = tuple(flow.scopes)
    return scope


def constants(scope: Scope) -> list[tuple[Any, Any]]:
    """A jaxpr's constant variables with their values."""
    return list(zip(scope.jaxpr.constvars, scope.consts, strict=True))


def uniform(value: Any) -> float | None:
    """The number that every entry of a constant is, or None."""
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind not in "biuf":
        return None
    first = array.reshape(-1)[0]
    return float(first) if bool((array == first).all()) else None

"""Groups whose indices have an order: cut, they are still exact, but not if they change places."""

from collections.abc import Iterator

import numpy as np

from slim.graph import axes
from slim.graph.axes import Leaf
from slim.graph.groups import analyse
from slim.graph.infer import constants
from slim.graph.primitives import CUMULATIVE
from slim.graph.rules.scope import Reason, Scope
from slim.graph.trace import Graph


def ordered_groups(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The groups that may be cut but not permuted, by name, each with the reasons.

    Something beside the parameters tells their indices apart: a constant that varies along them
    (a table of positions), a range that counts them, a running sum. All others may be permuted: the
    same permutation along every member gives the same function.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> def fn(p, x):
    ...     return jnp.cumsum(x @ p["a"], axis=1) @ p["b"] + x @ p["c"] @ p["d"]
    >>> shapes = {"a": (2, 3), "b": (3, 2), "c": (2, 4), "d": (4, 2)}
    >>> graph = trace(fn, {k: jnp.ones(shape) for k, shape in shapes.items()}, jnp.ones((5, 2)))
    >>> list(ordered_groups(graph))
    ['a:1']
    """
    analysis = analyse(graph)
    found: dict[str, list[str]] = {}
    for leaf, reason in _ordered(analysis.inferred.scope):
        if leaf in analysis.names:
            found.setdefault(analysis.names[leaf], []).append(reason)
    return {name: tuple(dict.fromkeys(reasons)) for name, reasons in found.items()}


def _ordered(scope: Scope) -> Iterator[tuple[Leaf, str]]:
    for var, value in constants(scope):
        array = np.asarray(value) if np.ndim(value) else None
        for d, axis in enumerate(scope.dims[var]):
            if array is not None and (array != array.take([0], axis=d)).any():
                for leaf in axes.leaves(axis):
                    yield leaf, f"a constant of shape {array.shape} varies along it"
    for i, eqn in enumerate(scope.jaxpr.eqns):
        name = eqn.primitive.name
        if name == "iota":
            along, text = eqn.params["dimension"], "it counts the indices"
        elif name in CUMULATIVE:
            along, text = eqn.params["axis"], "later indices see earlier ones"
        else:
            for inner in scope.inner.get(i, ()):
                yield from _ordered(inner)
            continue
        for leaf in axes.leaves(scope.dims[eqn.outvars[0]][along]):
            yield leaf, Reason(eqn, text, scope.callers)()

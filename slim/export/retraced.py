"""A function inside a parameter, such as a branch, at other sizes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal, Var

from slim.graph.rules.scope import bind


def retraced(
    inner: ClosedJaxpr,
    shapes: Sequence[tuple[Any, ...]],
    params: Callable[[int], Mapping[str, Any]],
) -> ClosedJaxpr:
    """The function of operands of other shapes.

    Args:
        inner: at its own sizes.
        shapes: of its operands.
        params: the number of an equation -> its parameters for these.
    """

    def fn(*args: jax.Array) -> list[Any]:
        values: dict[Var, Any] = dict(zip(inner.jaxpr.constvars, inner.consts, strict=True))
        values.update(zip(inner.jaxpr.invars, args, strict=True))

        def read(var: Any) -> Any:
            return var.val if isinstance(var, Literal) else values[var]

        for number, eqn in enumerate(inner.jaxpr.eqns):
            made = bind(eqn, list(map(read, eqn.invars)), **params(number))
            values.update(zip(eqn.outvars, made, strict=True))
        return [read(var) for var in inner.jaxpr.outvars]

    types = zip(shapes, inner.in_avals, strict=True)
    return jax.make_jaxpr(fn)(*(jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in types))

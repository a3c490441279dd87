"""Which axis of each kernel a product sums over, read off the traced program."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from slim.graph import Graph
from slim.graph.cost import CONTRACTIONS
from slim.graph.inner import inner_jaxprs
from slim.graph.rules.scope import shape_of
from slim.prune.masks import prunable

# What leaves a kernel's axes where they are.
_CASTS = {"convert_element_type", "copy", "copy_p", "reduce_precision", "optimization_barrier"}


def contracted_axes(
    graph: Graph, select: Sequence[tuple[str, bool]] = ()
) -> tuple[tuple[str, int], ...]:
    """Rules for `n_m`: each prunable kernel's path and the axis that its product sums over.

    Of several axes the last, which is the innermost of the flattened product; of several products
    the first in the program. Kernels that are transposed or reshaped on the way are left out, and
    so follow the default of `n_m`.

    Args:
        graph: of any function that multiplies the kernels.
        select: (path pattern, whether to prune) rules; those given to `choose_masks`.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> params = {"query": jnp.ones((8, 2, 4)), "out": jnp.ones((2, 4, 8))}
    >>> def fn(p, x):
    ...     return jnp.einsum("bhw,hwo->bo", jnp.einsum("bi,ihw->bhw", x, p["query"]), p["out"])
    >>> contracted_axes(trace(fn, params, jnp.ones((3, 8))))
    (('query', 0), ('out', 1))
    """
    jaxpr = graph.jaxpr.jaxpr
    found: dict[str, int] = {}
    _walk(jaxpr, dict(zip(jaxpr.invars, graph.param_shapes, strict=False)), found)
    chosen = prunable(graph.params, select)
    shapes = graph.param_shapes
    # A scan's body sees a stacked kernel without its first axis, so axes are counted from the end.
    return tuple(
        (path, axis + len(shapes[path].shape)) for path, axis in found.items() if chosen[path]
    )


def _walk(jaxpr: Jaxpr, names: dict[Any, str], found: dict[str, int]) -> None:
    def name(operand: Any) -> str | None:
        return None if isinstance(operand, Literal) else names.get(operand)

    for eqn in jaxpr.eqns:
        for inner in inner_jaxprs(eqn):
            feeding = [name(eqn.invars[i]) for i in inner.operands]
            inside = zip(inner.jaxpr.invars, feeding, strict=True)
            _walk(inner.jaxpr, {var: path for var, path in inside if path}, found)
        if eqn.primitive.name in _CASTS and (path := name(eqn.invars[0])):
            names[eqn.outvars[0]] = path
        if eqn.primitive.name in CONTRACTIONS:
            for side, operand in enumerate(eqn.invars[:2]):
                if path := name(operand):
                    axes = _contracted(eqn, side)
                    if axes:
                        found.setdefault(path, max(axes) - len(shape_of(operand)))


def _contracted(eqn: JaxprEqn, side: int) -> Sequence[int]:
    params: Mapping[str, Any] = eqn.params
    if eqn.primitive.name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        return (numbers.rhs_spec[1],) if side == 1 else ()
    if eqn.primitive.name == "dot_general":
        return params["dimension_numbers"][0][side]
    return params["ragged_dot_dimension_numbers"].dot_dimension_numbers[0][side]

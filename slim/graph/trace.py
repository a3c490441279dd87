"""Trace a function of a parameter pytree once; everything in `slim.graph` reads the result."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, JaxprEqn

from slim import paths

PyTree = Any
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Graph:
    """A function, the jaxpr that it traced to, and the shapes that it was traced at.

    Invariants: the jaxpr's inputs are the leaves of `params` in tree order, then the array leaves
    of `(inputs, kwargs)` in tree order; its outputs are the leaves of `outputs`. Two graphs are
    equal only if they are the same object, so that readings of a graph can be kept beside it.

    Attributes:
        fn: the function, `fn(params, *inputs, **kwargs)`.
        jaxpr: what it traced to.
        params: the parameters, each leaf a `jax.ShapeDtypeStruct`.
        inputs: the positional inputs, arrays as `jax.ShapeDtypeStruct`, other leaves as given.
        kwargs: the keyword inputs, in the same form.
        outputs: the result, each leaf a `jax.ShapeDtypeStruct`.
    """

    fn: Callable[..., Any]
    jaxpr: ClosedJaxpr
    params: PyTree
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: PyTree

    @property
    def param_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The parameters by path, in the order of the jaxpr's first inputs."""
        return paths.flatten(self.params)


def trace(fn: Callable[..., Any], params: PyTree, *inputs: Any, **kwargs: Any) -> Graph:
    """The graph of `fn(params, *inputs, **kwargs)`; nothing is executed.

    Args:
        fn: a pure function: a Linen `apply`, an NNX graph merged with its state, plain code.
        params: whatever must shrink together: parameters, and batch statistics if there are any.
            Arrays or `jax.ShapeDtypeStruct`s.
        inputs: data. Leaves with a shape and a dtype are traced; others (flags, strings) are
            fixed in the graph.
        kwargs: as `inputs`.

    Raises:
        ValueError: two parameters have one path.

    >>> graph = trace(lambda w, x: x @ w, jax.ShapeDtypeStruct((3, 4), "float32"),
    ...               jax.ShapeDtypeStruct((2, 3), "float32"))
    >>> graph.outputs.shape
    (2, 4)
    """
    params = abstract(params)
    leaves = jax.tree.leaves(params)
    if len(paths.flatten(params)) != len(leaves):
        names = [paths.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"params has two leaves at the path {twice!r}; rename one of them")
    (inputs, kwargs) = abstract((inputs, kwargs))
    values, treedef = jax.tree.flatten((inputs, kwargs))
    dynamic = [is_array(value) for value in values]

    def flat(params: PyTree, arrays: list[Any]) -> Any:
        rest = iter(arrays)
        merged = [
            next(rest) if traced else value for traced, value in zip(dynamic, values, strict=True)
        ]
        args, kwargs = jax.tree.unflatten(treedef, merged)
        return fn(params, *args, **kwargs)

    arrays = [value for traced, value in zip(dynamic, values, strict=True) if traced]
    jaxpr, outputs = jax.make_jaxpr(flat, return_shape=True)(params, arrays)
    return Graph(fn, jaxpr, params, inputs, kwargs, abstract(outputs))


def at_shapes(
    graph: Graph, make: Callable[[Graph], T]
) -> Callable[[Mapping[str, Any], tuple[Any, ...], dict[str, Any]], T]:
    """`at(given, inputs, kwargs)`: what `make` makes of the function at their shapes and types.

    Of the graph itself it is made at once; at other shapes the function is traced again, once for
    each. `given` are parameters by path, of which only the types count; those that are not there
    have the graph's.

    >>> import jax.numpy as jnp
    >>> graph = trace(lambda w, x: x @ w, jnp.ones((3, 4)), jnp.ones((2, 3)))
    >>> at_shapes(graph, lambda each: each.outputs.shape)({}, (jnp.ones((5, 3)),), {})
    (5, 4)
    """
    made: dict[Any, T] = {}

    def at(given: Mapping[str, Any], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        def typed(path: str, full: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(full.shape, given.get(path, full).dtype)

        like = paths.map_with_path(typed, graph.params)
        leaves, structure = jax.tree.flatten(abstract((like, inputs, kwargs)))
        key = structure, tuple(leaves)
        if key not in made:
            made[key] = make(trace(graph.fn, like, *inputs, **kwargs) if made else graph)
        return made[key]

    at({}, graph.inputs, graph.kwargs)
    return at


def arrays(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The array leaves of a call's inputs, in the order of the jaxpr's last inputs."""
    return [leaf for leaf in jax.tree.leaves((inputs, kwargs)) if is_array(leaf)]


def is_array(leaf: Any) -> bool:
    """Whether a leaf of the inputs is data (has a shape and a dtype) rather than a fixed flag."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def abstract(tree: PyTree) -> PyTree:
    """Each array leaf as its `jax.ShapeDtypeStruct`; other leaves unchanged."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else leaf, tree
    )


@contextmanager
def as_written(eqn: JaxprEqn) -> Iterator[None]:
    """In it, what is run or traced in an equation's place has its context and line of user code.

    By its line a site without a parameter is named, in this trace as in the next.
    """
    source = eqn.source_info
    names = source_info_util.current_name_stack() + source.name_stack
    with source_info_util.user_context(source.traceback, name_stack=names), eqn.ctx.manager:
        yield


def source_line(eqn: JaxprEqn, callers: Sequence[JaxprEqn] = ()) -> str:
    """The line of user code that made an equation: `model.py:12:8 (__call__)`.

    The innermost frame outside installed packages; where there is none, the innermost frame.
    An equation inside a function of JAX's own has no frames: then those of the first of `callers`
    (the equations that it is nested in, inside out) that has any.
    """
    for each in (eqn, *callers):
        frames = source_info_util.summarize(each.source_info, num_frames=100).splitlines()
        own = [frame for frame in frames if "site-packages" not in frame]
        if frames:
            return (own or frames)[-1].rsplit("/", 1)[-1].strip()
    return "an unknown line"

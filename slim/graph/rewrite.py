"""Rewrite: the same program with other operations at chosen sites.

A hook stands in the place of each chosen contraction. It may observe the operands, round them, or
compute the result otherwise; what it needs and what it learns is a pytree per site, which goes in
and comes out. Inside a scan each round has its own: the leaves are stacked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

from slim import paths
from slim.graph.evaluate import Address, Evaluation, Operation, States
from slim.graph.rules.scope import bind
from slim.graph.sites import Site, sites
from slim.graph.trace import Graph, arrays, at_shapes

PyTree = Any


class Contraction(NamedTuple):
    """The operation that a hook stands in for.

    Attributes:
        site: which one it is.
        eqn: the equation, with the operation's parameters and the shapes it was traced at.
    """

    site: Site
    eqn: JaxprEqn

    def __call__(self, *operands: Any, **changes: Any) -> Any:
        """The result of the operation itself on `operands`, with some parameters changed."""
        (result,) = bind(self.eqn, operands, **changes)
        return result


Hook = Callable[[Contraction, Sequence[Any], PyTree], tuple[Any, PyTree]]
"""(operation, operands, the site's state) -> (result, the site's new state)."""


def rewrite(graph: Graph, hook: Hook) -> Callable[..., tuple[Any, States]]:
    """`fn(params, states, *inputs, **kwargs) -> (outputs, new states)`.

    `states` holds a pytree for each site that the hook is asked about, by name; all others run as
    they are. Inside scans its leaves have the scans' lengths (`Site.loops`) as first dimensions,
    inside `while` loops it is carried along. A function with a derivative of its own that has a
    chosen site inside is differentiated as a plain one.

    A parameter that is missing from `params` is None to the hook; it must not be used elsewhere.
    Inputs of other shapes are traced again, once per shape.

    Raises:
        ValueError: `states` names no site; a missing parameter is used outside of its sites; a
            state changes inside a `shard_map`, where each device would have its own.

    >>> import jax.numpy as jnp
    >>> from slim.graph import trace
    >>> graph = trace(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 2))}, jnp.ones((1, 2)))
    >>> def double(contract, operands, calls):
    ...     return 2 * contract(*operands), calls + 1
    >>> outputs, calls = rewrite(graph, double)({"w": jnp.eye(2)}, {"w": 0}, jnp.ones((1, 2)))
    >>> outputs.tolist(), calls
    ([[2.0, 2.0]], {'w': 1})
    """
    program = at_shapes(graph, lambda this: (this, {site.name: site for site in sites(this)}))

    def rewritten(
        params: PyTree, states: Mapping[str, PyTree], *inputs: Any, **kwargs: Any
    ) -> tuple[Any, States]:
        given = paths.flatten(params)
        this, every = program(given, inputs, kwargs)

        def instead(
            operation: Operation, operands: list[Any], state: PyTree
        ) -> tuple[list[Any], PyTree]:
            contraction = Contraction(every[operation.name], operation.eqn)
            result, state = hook(contraction, operands, state)
            return [result], state

        evaluation = Evaluation(this, _addresses(every, states), instead)
        args = [*(given.get(path) for path in this.param_shapes), *arrays(inputs, kwargs)]
        return evaluation(args, dict(states))

    return rewritten


def _addresses(every: Mapping[str, Site], names: Iterable[str]) -> dict[Address, str]:
    for name in names:
        if name not in every:
            near = ", ".join(paths.nearest(name, every) or sorted(every)[:3])
            raise ValueError(f"no site is named {name!r}; nearest: {near}")
    return {every[name].address: name for name in names}

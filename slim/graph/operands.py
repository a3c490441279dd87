"""The parameters as their sites see them: cast, reshaped and transposed, one array a site."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal, Var

from slim import paths
from slim.graph.inner import CALLS, Inner, inner_jaxprs
from slim.graph.origins import LAYOUT
from slim.graph.rules.scope import bind
from slim.graph.sites import Site, sites
from slim.graph.trace import Graph

PyTree = Any
Address = tuple[int, ...]


def site_parameters(graph: Graph, params: PyTree) -> dict[str, jax.Array]:
    """The parameter's operand of each site that has exactly one, by the site's name.

    Of a site inside scans the operands of all rounds are stacked (`Site.loops` first). Both
    branches of a `cond` are here, and nothing that depends on data is computed.

    >>> from slim.graph import trace
    >>> params = {"w": jnp.ones((4, 3))}
    >>> graph = trace(lambda p, x: x @ p["w"].T, params, jnp.ones((2, 3)))
    >>> {name: operand.shape for name, operand in site_parameters(graph, params).items()}
    {'w': (3, 4)}
    """
    wanted = {
        site.address: site
        for site in sites(graph)
        if sum(path is not None for path in site.operands[:2]) == 1
    }
    given = paths.flatten(params)
    known = [given[path] for path in graph.param_shapes]
    data = [None] * (len(graph.jaxpr.jaxpr.invars) - len(known))
    _, found = _walk(graph.jaxpr.jaxpr, [*known, *data], (), wanted)
    return {site.name: found[address] for address, site in wanted.items()}


def _walk(
    jaxpr: Jaxpr, args: Sequence[Any], prefix: Address, wanted: Mapping[Address, Site]
) -> tuple[list[Any], dict[Address, Any]]:
    """Evaluate what is a parameter; None is what is not."""
    values: dict[Var, Any] = dict(zip(jaxpr.invars, args, strict=True))

    def read(operand: Any) -> Any:
        return None if isinstance(operand, Literal) else values.get(operand)

    found: dict[Address, Any] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        address, operands = (*prefix, i), [read(operand) for operand in eqn.invars]
        name = eqn.primitive.name
        if address in wanted:
            found[address] = next(operand for operand in operands[:2] if operand is not None)
        for j, inner in enumerate(inner_jaxprs(eqn)):
            place, inputs = (*address, j), [operands[k] for k in inner.operands]
            if name == "scan":
                found |= _every_round(inner, inputs, place, wanted)
                continue
            outs, inside = _walk(inner.jaxpr, inputs, place, wanted)
            found |= inside
            if name in CALLS:
                values.update(zip(eqn.outvars, outs, strict=True))
        if name in LAYOUT and all(operand is not None for operand in operands):
            values.update(zip(eqn.outvars, bind(eqn, operands), strict=True))
    return [read(var) for var in jaxpr.outvars], found


def _every_round(
    inner: Inner, args: list[Any], place: Address, wanted: Mapping[Address, Site]
) -> dict[Address, Any]:
    split = len(args) - inner.stacked

    def once(_: Any, rows: list[Any]) -> dict[Address, Any]:
        return _walk(inner.jaxpr, [*args[:split], *rows], place, wanted)[1]

    return jax.vmap(once)(jnp.arange(inner.times), args[split:])

"""Rewrite: the same program with other operations at chosen sites.

A hook stands in the place of each chosen contraction. It may observe the operands, round them, or
compute the result otherwise; what it needs and what it learns is a pytree per site, which goes in
and comes out. Inside a scan each round has its own: the leaves are stacked.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from slim import paths
from slim.graph.inner import Inner, inner_jaxprs, scan_split
from slim.graph.origins import LAYOUT
from slim.graph.rules.control import REMAT
from slim.graph.rules.scope import bind
from slim.graph.sites import Site, sites
from slim.graph.trace import Graph, abstract, is_array, source_line, trace

PyTree = Any
States = dict[str, PyTree]
Address = tuple[int, ...]


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
    >>> graph = trace(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 2))}, jnp.ones((1, 2)))
    >>> def double(contract, operands, calls):
    ...     return 2 * contract(*operands), calls + 1
    >>> outputs, calls = rewrite(graph, double)({"w": jnp.eye(2)}, {"w": 0}, jnp.ones((1, 2)))
    >>> outputs.tolist(), calls
    ([[2.0, 2.0]], {'w': 1})
    """
    graphs = {_key(graph.params, graph.inputs, graph.kwargs): graph}

    def rewritten(
        params: PyTree, states: Mapping[str, PyTree], *inputs: Any, **kwargs: Any
    ) -> tuple[Any, States]:
        given = paths.flatten(params)

        def like_given(path: str, full: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(
                full.shape, given[path].dtype if path in given else full.dtype
            )

        like = paths.map_with_path(like_given, graph.params)
        key = _key(like, inputs, kwargs)
        if key not in graphs:
            graphs[key] = trace(graph.fn, like, *inputs, **kwargs)
        this = graphs[key]
        run = _Run(hook, _chosen(this, states))
        data = [leaf for leaf in jax.tree.leaves((inputs, kwargs)) if is_array(leaf)]
        args = [*(given.get(path) for path in this.param_shapes), *data]
        jaxpr = this.jaxpr
        outs, changed = run(jaxpr.jaxpr, jaxpr.consts, args, (), dict(states))
        return jax.tree.unflatten(jax.tree.structure(this.outputs), outs), changed

    return rewritten


def _key(params: PyTree, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    leaves, structure = jax.tree.flatten(abstract((params, inputs, kwargs)))
    return structure, tuple(leaves)


def _chosen(graph: Graph, states: Mapping[str, PyTree]) -> dict[Address, Site]:
    every = {site.name: site for site in sites(graph)}
    for name in states:
        if name not in every:
            near = ", ".join(paths.nearest(name, every) or sorted(every)[:3])
            raise ValueError(f"no site is named {name!r}; nearest: {near}")
    return {every[name].address: every[name] for name in states}


@dataclass(frozen=True)
class _Run:
    """The evaluation of one program."""

    hook: Hook
    chosen: Mapping[Address, Site]

    def __call__(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        args: Sequence[Any],
        prefix: Address,
        states: States,
    ) -> tuple[list[Any], States]:
        """Evaluate a jaxpr at `prefix`; `states` are those of the chosen sites inside it."""
        values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(operand: Any) -> Any:
            return operand.val if isinstance(operand, Literal) else values[operand]

        states = dict(states)
        for i, eqn in enumerate(jaxpr.eqns):
            operands = [read(operand) for operand in eqn.invars]
            with eqn.ctx.manager:
                outs, changed = self._equation(eqn, operands, (*prefix, i), states)
            states.update(changed)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars], states

    def _equation(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        if address in self.chosen:
            site = self.chosen[address]
            out, state = self.hook(Contraction(site, eqn), operands, states[site.name])
            return [out], {site.name: state}
        own = {
            site.name: states[site.name]
            for place, site in self.chosen.items()
            if place[: len(address)] == address
        }
        missing = any(operand is None for operand in operands)
        name = eqn.primitive.name
        if own or (missing and inner_jaxprs(eqn)):
            runners = {"scan": self._scan, "while": self._while, "cond": self._cond}
            runner = runners.get(name, self._shard_map if name == "shard_map" else self._call)
            return runner(eqn, operands, address, own)
        if missing:
            if name not in LAYOUT:
                raise ValueError(
                    f"{name} at {source_line(eqn)} uses a parameter that is not given; it may be "
                    "left out only where every use of it is at a chosen site"
                )
            return [None] * len(eqn.outvars), {}
        return bind(eqn, operands), {}

    def _call(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        (inner,) = inner_jaxprs(eqn)

        def inside(operands: list[Any], states: States) -> tuple[list[Any], States]:
            return self(inner.jaxpr, inner.consts, operands, (*address, 0), states)

        if eqn.primitive.name in REMAT:
            inside = jax.checkpoint(
                inside, prevent_cse=eqn.params["prevent_cse"], policy=eqn.params["policy"]
            )
        return inside(operands, states)

    def _scan(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        (inner,) = inner_jaxprs(eqn)
        constants, carried, _ = scan_split(eqn)

        def body(state: list[Any], row: tuple[list[Any], States]) -> tuple[list[Any], Any]:
            args = [*operands[:constants], *state, *row[0]]
            outs, changed = self(inner.jaxpr, inner.consts, args, (*address, 0), row[1])
            return outs[:carried], (outs[carried:], changed)

        last, (stacked, changed) = jax.lax.scan(
            body,
            operands[constants : constants + carried],
            (operands[constants + carried :], states),
            length=int(eqn.params["length"]),
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        return [*last, *stacked], changed

    def _while(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        condition, body = inner_jaxprs(eqn)
        for_body = [operands[i] for i in body.operands]
        split = int(eqn.params["body_nconsts"])

        def go_on(carry: tuple[list[Any], States]) -> Any:
            args = [*operands[: int(eqn.params["cond_nconsts"])], *carry[0]]
            return self(condition.jaxpr, condition.consts, args, (*address, 0), carry[1])[0][0]

        def once(carry: tuple[list[Any], States]) -> tuple[list[Any], States]:
            args = [*for_body[:split], *carry[0]]
            return self(body.jaxpr, body.consts, args, (*address, 1), carry[1])

        outs, changed = jax.lax.while_loop(go_on, once, (for_body[split:], states))
        return outs, changed

    def _cond(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        def branch(j: int, inner: Inner) -> Callable[..., Any]:
            return lambda args, states: self(inner.jaxpr, inner.consts, args, (*address, j), states)

        branches = [branch(j, inner) for j, inner in enumerate(inner_jaxprs(eqn))]
        outs, changed = jax.lax.switch(operands[0], branches, operands[1:], states)
        return outs, changed

    def _shard_map(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        (inner,) = inner_jaxprs(eqn)
        params = eqn.params
        everywhere = jax.sharding.PartitionSpec()

        def inside(operands: list[Any], states: States) -> list[Any]:
            outs, changed = self(inner.jaxpr, inner.consts, operands, (*address, 0), states)
            if not all(map(operator.is_, jax.tree.leaves(states), jax.tree.leaves(changed))):
                raise ValueError(
                    f"the state of {', '.join(states)} changes inside a shard_map, where each "
                    "device would have its own; trace the function without it for that"
                )
            return outs

        outs = jax.shard_map(
            inside,
            mesh=params["mesh"],
            in_specs=(list(params["in_specs"]), everywhere),
            out_specs=list(params["out_specs"]),
            axis_names=params["newly_manual_axes"],
            check_vma=params["check_vma"],
        )(operands, states)
        return outs, states

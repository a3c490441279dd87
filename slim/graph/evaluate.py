"""Evaluation of a graph's jaxpr with something else done at chosen equations, wherever they are.

Under `rewrite` and `tapped`. What is done needs and gives a pytree for each of the equations, its
state: inside a scan each round has its own, stacked; inside `while` loops it is carried along.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from slim.graph.inner import Inner, inner_jaxprs, scan_split
from slim.graph.origins import LAYOUT
from slim.graph.rules.control import REMAT
from slim.graph.rules.scope import bind
from slim.graph.trace import Graph, as_written, source_line

PyTree = Any
States = dict[str, PyTree]
Address = tuple[int, ...]


class Operation(NamedTuple):
    """A chosen equation.

    Attributes:
        name: of its state.
        eqn: the equation.
        run: its results on operands, with what is chosen inside it.
    """

    name: str
    eqn: JaxprEqn
    run: Callable[[list[Any]], Sequence[Any]]


Instead = Callable[[Operation, list[Any], PyTree], tuple[Sequence[Any], PyTree]]
"""(operation, operands, state) -> (results, new state)."""


@dataclass(frozen=True)
class Evaluation:
    """A program, and what to do at which of its equations.

    Attributes:
        graph: the program.
        chosen: by the equations' addresses (as in `Site.address`), the names of their states.
        instead: what to do there.
    """

    graph: Graph
    chosen: Mapping[Address, str]
    instead: Instead

    def __call__(self, args: Sequence[Any], states: States) -> tuple[PyTree, States]:
        """The outputs and the new states, from the jaxpr's inputs.

        An input of None is one that nothing uses but what stands in the place of an equation.
        """
        jaxpr = self.graph.jaxpr
        outs, states = self._run(jaxpr.jaxpr, jaxpr.consts, args, (), states)
        return jax.tree.unflatten(jax.tree.structure(self.graph.outputs), outs), states

    def _run(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        args: Sequence[Any],
        prefix: Address,
        states: States,
    ) -> tuple[list[Any], States]:
        """Evaluate a jaxpr at `prefix`; `states` are those of the chosen equations inside it."""
        values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(operand: Any) -> Any:
            return operand.val if isinstance(operand, Literal) else values[operand]

        states = dict(states)
        for i, eqn in enumerate(jaxpr.eqns):
            operands = [read(operand) for operand in eqn.invars]
            with as_written(eqn):
                outs, changed = self._equation(eqn, operands, (*prefix, i), states)
            states.update(changed)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(var) for var in jaxpr.outvars], states

    def _equation(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        if address not in self.chosen:
            return self._as_it_is(eqn, operands, address, states)
        name, changed = self.chosen[address], {}

        def run(operands: list[Any]) -> Sequence[Any]:
            outs, inside = self._as_it_is(eqn, operands, address, states)
            changed.update(inside)
            return outs

        outs, state = self.instead(Operation(name, eqn, run), operands, states[name])
        return outs, {**changed, name: state}

    def _as_it_is(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        inside = {
            name: states[name]
            for place, name in self.chosen.items()
            if place[: len(address)] == address != place
        }
        missing = any(operand is None for operand in operands)
        name = eqn.primitive.name
        if inside or (missing and inner_jaxprs(eqn)):
            runners = {"scan": self._scan, "while": self._while, "cond": self._cond}
            runner = runners.get(name, self._shard_map if name == "shard_map" else self._call)
            return runner(eqn, operands, address, inside)
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
            return self._run(inner.jaxpr, inner.consts, operands, (*address, 0), states)

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
            outs, changed = self._run(inner.jaxpr, inner.consts, args, (*address, 0), row[1])
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
            return self._run(condition.jaxpr, condition.consts, args, (*address, 0), carry[1])[0][0]

        def once(carry: tuple[list[Any], States]) -> tuple[list[Any], States]:
            args = [*for_body[:split], *carry[0]]
            return self._run(body.jaxpr, body.consts, args, (*address, 1), carry[1])

        outs, changed = jax.lax.while_loop(go_on, once, (for_body[split:], states))
        return outs, changed

    def _cond(
        self, eqn: JaxprEqn, operands: list[Any], address: Address, states: States
    ) -> tuple[Sequence[Any], States]:
        def branch(j: int, inner: Inner) -> Callable[..., Any]:
            return lambda args, states: self._run(
                inner.jaxpr, inner.consts, args, (*address, j), states
            )

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
            outs, changed = self._run(inner.jaxpr, inner.consts, operands, (*address, 0), states)
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

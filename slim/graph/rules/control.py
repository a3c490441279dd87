"""Equations that run jaxprs: calls, loops, branches. Their inside is walked with their axes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import JaxprEqn

from slim.graph.axes import Dims
from slim.graph.inner import CALLS, inner_jaxprs, scan_split
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed, agreed
from slim.graph.rules.rule import Rule
from slim.graph.rules.scope import Resize, Step


def meet(a: Known, b: Known) -> Known:
    """What is known of a value that is one of two."""
    at = {}
    for place in {**a.at, **b.at}:
        value = agreed([a.get(*place), b.get(*place)])
        if value is not None:
            at[place] = value
    return Known(agreed([a.everywhere, b.everywhere]), at)


def settle(
    start: Sequence[Known], body: Callable[[list[Known]], list[Known]]
) -> tuple[list[Known], list[Known]]:
    """What is known of a loop's carry in every round, and of the last round's results.

    `body` gives the results (the carry first) from the carry; what is known only shrinks, so this
    ends.
    """
    carry = list(start)
    while True:
        results = body(carry)
        after = [meet(a, b) for a, b in zip(carry, results, strict=False)]
        if after == carry:
            return carry, results
        carry = after


def call_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The inside's axes are the outside's."""
    (inner,) = inner_jaxprs(eqn)
    return flow.enter(inner.jaxpr, inner.consts, ins)


def call_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What the inside makes of it."""
    return removed.enter(step.inner[0], known)


def call_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Run the inside in place."""
    return resize.run(step.inner[0], args)


def remat_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Run the inside under the same rematerialisation policy."""
    fn = jax.checkpoint(
        lambda *args: resize.run(step.inner[0], args),
        prevent_cse=step.params["prevent_cse"],
        policy=step.params["policy"],
    )
    return list(fn(*args))


def scan_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Every round has the same axes: carries are shared, stacked values lose the first."""
    consts, carry, _ = scan_split(eqn)
    (inner,) = inner_jaxprs(eqn)
    length = flow.frozen(int(eqn.params["length"]), "it is the length of a scan")
    for dims in ins[consts + carry :]:
        flow.unify(dims[0], length)
    rows = [dims[1:] for dims in ins[consts + carry :]]
    outs = flow.enter(inner.jaxpr, inner.consts, [*ins[: consts + carry], *rows])
    for before, after in zip(ins[consts : consts + carry], outs, strict=False):
        flow.unify_all(before, after)
    return [*outs[:carry], *((length, *dims) for dims in outs[carry:])]


def scan_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What holds in every round."""
    consts, carry, _ = scan_split(step.eqn)
    rows = [_shift(each, -1) for each in known[consts + carry :]]
    carried, results = settle(
        known[consts : consts + carry],
        lambda state: removed.enter(step.inner[0], [*known[:consts], *state, *rows]),
    )
    return [*carried, *(_shift(each, 1) for each in results[carry:])]


def _shift(known: Known, by: int) -> Known:
    at = {(d + by, leaf): value for (d, leaf), value in known.at.items() if d + by >= 0}
    return Known(known.everywhere, at)


def scan_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Scan the small body."""
    consts, carry, _ = scan_split(step.eqn)

    def body(state: tuple[Any, ...], row: tuple[Any, ...]) -> tuple[Any, Any]:
        results = resize.run(step.inner[0], [*args[:consts], *state, *row])
        return tuple(results[:carry]), tuple(results[carry:])

    state, stacked = jax.lax.scan(
        body,
        tuple(args[consts : consts + carry]),
        tuple(args[consts + carry :]),
        length=int(step.params["length"]),
        reverse=step.params["reverse"],
        unroll=step.params["unroll"],
    )
    return [*state, *stacked]


def while_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Condition and body share the carry's axes."""
    condition, body = inner_jaxprs(eqn)
    flow.enter(condition.jaxpr, condition.consts, [ins[i] for i in condition.operands])
    outs = flow.enter(body.jaxpr, body.consts, [ins[i] for i in body.operands])
    carry = ins[len(ins) - len(outs) :]
    for before, after in zip(carry, outs, strict=True):
        flow.unify_all(before, after)
    return list(carry)


def _while_split(eqn: JaxprEqn, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    first = eqn.params["cond_nconsts"]
    second = first + eqn.params["body_nconsts"]
    return list(values[:first]), list(values[first:second]), list(values[second:])


def while_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What holds in every round, the condition's reductions included."""
    for_condition, for_body, start = _while_split(step.eqn, known)
    carried, _ = settle(start, lambda state: removed.enter(step.inner[1], [*for_body, *state]))
    removed.enter(step.inner[0], [*for_condition, *carried])
    return carried


def while_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Loop the small body under the small condition."""
    for_condition, for_body, start = _while_split(step.eqn, args)
    result = jax.lax.while_loop(
        lambda state: resize.run(step.inner[0], [*for_condition, *state])[0],
        lambda state: tuple(resize.run(step.inner[1], [*for_body, *state])),
        tuple(start),
    )
    return list(result)


def cond_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Every branch has the same axes."""
    flow.freeze(ins[0], "it chooses a branch")
    branches = [flow.enter(each.jaxpr, each.consts, ins[1:]) for each in inner_jaxprs(eqn)]
    for outs in branches[1:]:
        for first, other in zip(branches[0], outs, strict=True):
            flow.unify_all(first, other)
    return branches[0]


def cond_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What holds in every branch."""
    branches = [removed.enter(scope, known[1:]) for scope in step.inner]
    result = branches[0]
    for outs in branches[1:]:
        result = [meet(a, b) for a, b in zip(result, outs, strict=True)]
    return result


def cond_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Choose among the small branches."""
    branches = [
        lambda *operands, scope=scope: tuple(resize.run(scope, operands)) for scope in step.inner
    ]
    return list(jax.lax.switch(args[0], branches, *args[1:]))


def no_rule_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """What has no rule freezes all that it touches."""
    for dims in ins:
        flow.freeze(dims, "slim.graph has no rule for it")
    return [
        tuple(
            flow.frozen(size, "slim.graph has no rule for it")
            for size in getattr(var.aval, "shape", ())
        )
        for var in eqn.outvars
    ]


CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
REMAT = ("remat2", "checkpoint")

RULES = {
    **{
        name: Rule(call_axes, call_removed, call_replay)
        for name in CALLS
        if name not in (*CUSTOM, *REMAT)
    },
    **{name: Rule(call_axes, call_removed, remat_replay) for name in REMAT},
    "scan": Rule(scan_axes, scan_removed, scan_replay),
    "while": Rule(while_axes, while_removed, while_replay),
    "cond": Rule(cond_axes, cond_removed, cond_replay),
}

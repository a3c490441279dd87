"""Functions with derivatives of their own: the small function keeps them.

The rule that a `custom_jvp` or `custom_vjp` carries was closed over the original shapes. So it is
traced there, through JAX's public `jvp` and `vjp`, and its jaxpr is walked and resized like any
other; the small function is a new `custom_jvp` or `custom_vjp` around it. Inside a derivative
further custom functions run as plain ones.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from slim.graph.axes import Dims
from slim.graph.rules.control import call_axes, call_removed
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import Known, Removed
from slim.graph.rules.rule import Rule
from slim.graph.rules.scope import Resize, Step, bind, shape_of


def _shapes(variables: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape_of(var), var.aval.dtype) for var in variables]


def _floating(variables: Sequence[Any]) -> list[bool]:
    return [jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in variables]


def _pick(values: Sequence[Any], which: Sequence[bool]) -> list[Any]:
    return [value for value, chosen in zip(values, which, strict=True) if chosen]


def _fill(which: Sequence[bool], chosen: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """A list as long as `which`: `chosen` in order where it is true, `others`' entry elsewhere."""
    rest = iter(chosen)
    return [next(rest) if yes else other for yes, other in zip(which, others, strict=True)]


def _no_tangent(value: Any) -> np.ndarray:
    return np.zeros(np.shape(value), jax.dtypes.float0)


def jvp_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Tangents have their primals' axes."""
    outs = call_axes(flow, eqn, ins)
    if not flow.derivatives:
        return outs
    given, made = _floating(eqn.invars), _floating(eqn.outvars)

    def jvp(primals: list[Any], tangents: list[Any]) -> tuple[list[Any], list[Any]]:
        everything = _fill(given, tangents, [_no_tangent(value) for value in primals])
        results, moved = jax.jvp(lambda *args: bind(eqn, args), primals, everything)
        return results, _pick(moved, made)

    primals = _shapes(eqn.invars)
    closed: ClosedJaxpr = jax.make_jaxpr(jvp)(primals, _pick(primals, given))
    results = flow.enter(closed.jaxpr, closed.consts, [*ins, *_pick(ins, given)], derivative=True)
    for dims, other in zip([*outs, *_pick(outs, made)], results, strict=True):
        flow.unify_all(dims, other)
    return outs


def jvp_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """The small function with its own small derivative."""
    if len(step.inner) == 1:
        return resize.run(step.inner[0], args)
    given, made = _floating(step.eqn.invars), _floating(step.eqn.outvars)
    fn = jax.custom_jvp(lambda *args: resize.run(step.inner[0], args))

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        results = resize.run(step.inner[1], [*primals, *_pick(tangents, given)])
        outs, moved = results[: len(made)], results[len(made) :]
        return outs, _fill(made, moved, [_no_tangent(out) for out in outs])

    fn.defjvp(jvp)
    return list(fn(*args))


def vjp_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Cotangents have their primals' axes; residuals have what the forward rule gives them."""
    outs = call_axes(flow, eqn, ins)
    if not flow.derivatives:
        return outs
    given, made = _floating(eqn.invars), _floating(eqn.outvars)
    structure = None

    def forward(*args: Any) -> tuple[list[Any], list[Any]]:
        nonlocal structure
        results, pullback = jax.vjp(
            lambda *some: bind(eqn, _fill(given, some, args)), *_pick(args, given)
        )
        residuals, structure = jax.tree.flatten(pullback)
        return results, residuals

    def backward(residuals: list[Any], cotangents: list[Any]) -> tuple[Any, ...]:
        pullback = jax.tree.unflatten(structure, residuals)
        return pullback(_fill(made, cotangents, [_no_tangent(var.aval) for var in eqn.outvars]))

    ahead: ClosedJaxpr = jax.make_jaxpr(forward)(*_shapes(eqn.invars))
    results = flow.enter(ahead.jaxpr, ahead.consts, ins, derivative=True)
    residuals = results[len(outs) :]
    for dims, other in zip(outs, results, strict=False):
        flow.unify_all(dims, other)
    back: ClosedJaxpr = jax.make_jaxpr(backward)(
        _shapes(ahead.jaxpr.outvars[len(outs) :]), _pick(_shapes(eqn.outvars), made)
    )
    cotangents = flow.enter(
        back.jaxpr, back.consts, [*residuals, *_pick(outs, made)], derivative=True
    )
    for dims, other in zip(_pick(ins, given), cotangents, strict=True):
        flow.unify_all(dims, other)
    return outs


def vjp_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """The small function with its own small forward and backward rules."""
    if len(step.inner) == 1:
        return resize.run(step.inner[0], args)
    given, made = _floating(step.eqn.invars), _floating(step.eqn.outvars)
    call, ahead, back = step.inner
    fn = jax.custom_vjp(lambda *args: resize.run(call, args))

    def forward(*args: Any) -> tuple[list[Any], list[Any]]:
        results = resize.run(ahead, args)
        return results[: len(made)], results[len(made) :]

    def backward(residuals: list[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        results = resize.run(back, [*residuals, *_pick(cotangents, made)])
        return tuple(_fill(given, results, [None] * len(given)))

    fn.defvjp(forward, backward)
    return list(fn(*args))


def _unmoved(removed: Removed, dims: Dims) -> Known:
    """Zero at removed indices: no (co)tangent of the small function passes there."""
    return Known(None, dict.fromkeys(removed.places(dims), 0.0))


def jvp_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What the function makes of it, and its tangent rule."""
    outs = call_removed(removed, step, known)
    if len(step.inner) > 1:
        moved = _pick(step.ins, _floating(step.eqn.invars))
        removed.enter(step.inner[1], [*known, *(_unmoved(removed, dims) for dims in moved)])
    return outs


def vjp_removed(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """What the function makes of it, and its forward and backward rules."""
    outs = call_removed(removed, step, known)
    if len(step.inner) > 1:
        residuals = removed.enter(step.inner[1], known)[len(outs) :]
        moved = _pick(step.outs, _floating(step.eqn.outvars))
        removed.enter(step.inner[2], [*residuals, *(_unmoved(removed, dims) for dims in moved)])
    return outs


RULES = {
    "custom_jvp_call": Rule(jvp_axes, jvp_removed, jvp_replay),
    **{
        name: Rule(vjp_axes, vjp_removed, vjp_replay)
        for name in ("custom_vjp_call", "custom_vjp_call_jaxpr")
    },
}

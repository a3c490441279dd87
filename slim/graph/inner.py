"""The jaxprs inside an equation, and how their inputs and outputs line up with the equation's."""

from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from slim.graph.primitives import names


class Inner(NamedTuple):
    """A jaxpr inside an equation.

    Attributes:
        jaxpr: the inner jaxpr; its inputs are `operands`, in order.
        consts: the values of its `constvars`.
        operands: for each of its inputs, the index of the equation's operand that feeds it.
        stacked: how many of its last inputs are slices of their operands' first dimension.
        times: how often it runs when the equation runs once; None where that is unknown.
    """

    jaxpr: Jaxpr
    consts: tuple[Any, ...]
    operands: tuple[int, ...]
    stacked: int = 0
    times: int | None = 1


CALLS = names(
    """
    jit pjit closed_call core_call composite eval_jaxpr remat2 checkpoint custom_jvp_call
    custom_vjp_call custom_vjp_call_jaxpr
    """
)
"""Primitives that run one inner jaxpr once, on all of their operands."""


def scan_split(eqn: JaxprEqn) -> tuple[int, int, int]:
    """How many of a scan's operands are constants, carries and stacked inputs."""
    if "ft_in" in eqn.params:  # jax >= 0.12
        consts, carry, stacked = (len(part) for part in eqn.params["ft_in"].unpack())
        return consts, carry, stacked
    consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
    return consts, carry, len(eqn.invars) - consts - carry


def inner_jaxprs(eqn: JaxprEqn) -> tuple[Inner, ...]:
    """The jaxprs that an equation runs; empty for a plain operation.

    For `cond` they are alternatives; for `while` the condition, then the body.
    """
    name, every = eqn.primitive.name, tuple(range(len(eqn.invars)))
    if name in CALLS:
        # Which of the two names a primitive has it under changes from one JAX to the next.
        return (_inner(eqn.params.get("jaxpr") or eqn.params["call_jaxpr"], every),)
    if name == "scan":
        return (_inner(eqn.params["jaxpr"], every, scan_split(eqn)[2], int(eqn.params["length"])),)
    if name == "cond":
        return tuple(_inner(branch, every[1:]) for branch in eqn.params["branches"])
    if name == "while":
        cond_consts = eqn.params["cond_nconsts"]
        carry = every[cond_consts + eqn.params["body_nconsts"] :]
        return (
            _inner(eqn.params["cond_jaxpr"], every[:cond_consts] + carry, 0, None),
            _inner(eqn.params["body_jaxpr"], every[cond_consts:], 0, None),
        )
    if name == "shard_map":
        return (_inner(eqn.params["jaxpr"], every),)
    return ()


def _inner(
    jaxpr: ClosedJaxpr | Jaxpr, operands: tuple[int, ...], stacked: int = 0, times: int | None = 1
) -> Inner:
    if isinstance(jaxpr, ClosedJaxpr):
        return Inner(jaxpr.jaxpr, tuple(jaxpr.consts), operands, stacked, times)
    return Inner(jaxpr, (), operands, stacked, times)

"""Random bits: drawn at the small shape, so other draws of the same distribution."""

from typing import Any

from jax.extend.core import JaxprEqn

from slim.graph.axes import Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import unknown
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Resize, Step, bind, fresh, shape_of


def bits_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """A batch of keys is frozen; the drawn dimensions are new."""
    flow.freeze(ins[0], "it is a random key")
    drawn = shape_of(eqn.outvars[-1])[len(ins[0]) :]
    return [(*ins[0], *fresh(drawn))]


def bits_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Draw the small shape."""
    shape = resize.kept.shape(step.outs[0])[len(step.ins[0]) :]
    return bind(step.eqn, args, shape=shape)


def generator_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """The state is frozen; the drawn dimensions are new."""
    flow.freeze(ins[0], "it is a random state")
    return [ins[0], fresh(shape_of(eqn.outvars[1]))]


def generator_replay(resize: Resize, step: Step, args: list[Any]) -> list[Any]:
    """Draw the small shape."""
    return bind(step.eqn, args, shape=resize.kept.shape(step.outs[1]))


def key_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Keys and their parts are frozen."""
    for dims in ins:
        flow.freeze(dims, "it is a random key")
    return [
        tuple(flow.frozen(size, "it is a random key") for size in shape_of(var))
        for var in eqn.outvars
    ]


KEYS = ("random_seed", "random_wrap", "random_unwrap", "random_fold_in", "random_split")

RULES = {
    "random_bits": Rule(bits_axes, unknown, bits_replay),
    "rng_bit_generator": Rule(generator_axes, unknown, generator_replay),
    **{name: Rule(key_axes, unknown, unchanged) for name in (*KEYS, "random_clone")},
}

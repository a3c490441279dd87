"""Operations entry by entry: same place, same axis."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn
from scipy import special

from slim.graph import primitives
from slim.graph.axes import Dims
from slim.graph.rules.flow import Flow
from slim.graph.rules.removed import UNKNOWN, Known, Removed, agreed, carry
from slim.graph.rules.rule import Rule, unchanged
from slim.graph.rules.scope import Step, shape_of


def same_axes(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Operands share the result's axes; scalars and dimensions of size 1 are broadcast."""
    sizes = shape_of(eqn.outvars[0])
    full = [dims for dims in ins if dims]
    if any(len(dims) != len(sizes) for dims in full):
        for dims in ins:
            flow.freeze(dims, "it changes the number of dimensions")
        return [
            tuple(flow.frozen(size, "its size changed with the type") for size in shape_of(var))
            for var in eqn.outvars
        ]
    out = []
    for d, size in enumerate(sizes):
        first, *others = [dims[d] for dims in full if dims[d].size == size]
        for axis in others:
            flow.unify(first, axis)
        out.append(first)
    return [tuple(out) for _ in eqn.outvars]


def each_alone(flow: Flow, eqn: JaxprEqn, ins: list[Dims]) -> list[Dims]:
    """Each result has the axes of the operand in its place."""
    return ins[: len(eqn.outvars)]


def _as_stored(value: Any, dtype: Any) -> float | None:
    """A real number as a value of `dtype` holds it: rounded, cut to an integer; None if it is not.

    NaN, and integers out of range, are not.
    """
    if value in (0, 1):
        return float(value)
    if np.isnan(value):
        return None
    if jnp.issubdtype(dtype, np.integer):
        limits = jnp.iinfo(dtype)
        return float(np.trunc(value)) if limits.min <= value <= limits.max else None
    return float(np.real(np.asarray(value).astype(dtype)))


# What an operation makes of numbers; one that is not here is known only where `fold` says so.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "add_any": np.add,
    "atan2": np.arctan2,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "copy": np.positive,
    "copy_p": np.positive,
    "cos": np.cos,
    "cosh": np.cosh,
    "div": np.divide,
    "eq": np.equal,
    "erf": special.erf,
    "erfc": special.erfc,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "logistic": special.expit,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "name": np.positive,
    "neg": np.negative,
    "one_minus_square": lambda x: 1 - x * x,
    "pow": np.power,
    "real": np.positive,
    "rem": np.fmod,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": np.positive,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
}


def fold(eqn: JaxprEqn, values: list[float | None]) -> float | None:
    """The result of an elementwise operation on numbers, None standing for an unknown one.

    Zero times anything is zero, and zero over anything: other operands are taken to be finite
    and divisors not zero, or the masked function would not be finite either.
    """
    name = eqn.primitive.name
    finite = all(value is None or np.isfinite(value) for value in values)
    if name in ("mul", "and") and 0 in values and finite:
        return 0.0
    if name == "div" and values[0] == 0 and values[1] is None:
        return 0.0
    if name == "select_n":
        which, *cases = values
        return agreed(cases) if which is None else cases[int(which)]
    if any(value is None for value in values):
        return None
    if name == "reduce_precision" and values[0] != 0:
        return None
    dtype = eqn.outvars[0].aval.dtype  # type: ignore[attr-defined]
    with np.errstate(all="ignore"):
        if name in ("convert_element_type", "reduce_precision"):
            result = values[0]
        elif name == "integer_pow":
            result = np.float64(values[0]) ** eqn.params["y"]
        elif name == "not" and dtype == np.bool_:
            result = not values[0]
        elif name == "round":
            result = _round(values[0], eqn.params["rounding_method"])
        elif name in FUNCTIONS:
            result = FUNCTIONS[name](*values)
        else:
            return None
        return _as_stored(result, dtype)


def _round(value: Any, method: lax.RoundingMethod) -> Any:
    if method == lax.RoundingMethod.TO_NEAREST_EVEN:
        return np.round(value)
    return np.trunc(value + np.copysign(0.5, value))


def folded(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Fold the numbers that the operands hold at removed indices."""
    out = step.outs[0]
    at = {}
    for d, leaf in removed.places(out):
        values = [
            each.get(d, leaf) if dims and dims[d].size == out[d].size else each.everywhere
            for each, dims in zip(known, step.ins, strict=True)
        ]
        value = fold(step.eqn, values)
        if value is not None:
            at[d, leaf] = value
    result = Known(fold(step.eqn, [each.everywhere for each in known]), at)
    return [result for _ in step.outs]


def each_carried(removed: Removed, step: Step, known: list[Known]) -> list[Known]:
    """Each result holds what the operand in its place holds."""
    return [
        carry(removed, dims, [(each, dims)]) for dims, each in zip(step.outs, known, strict=False)
    ]


COPIES = primitives.names("optimization_barrier device_put name sharding_constraint pvary pcast")

RULES = {
    **{name: Rule(same_axes, folded, unchanged) for name in primitives.ELEMENTWISE - COPIES},
    **{name: Rule(each_alone, each_carried, unchanged) for name in COPIES},
    "threefry2x32": Rule(same_axes, lambda removed, step, known: [UNKNOWN] * 2, unchanged),
}

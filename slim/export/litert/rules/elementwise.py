"""Entry by entry: arithmetic, comparisons, choices, casts, activations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from slim.export.litert.lower import Lowering, Rule
from slim.export.litert.network import Tensor, constant
from slim.export.program import Node

BOOL = np.dtype(bool)

DIRECT = {
    "abs": "ABS",
    "add": "ADD",
    "add_any": "ADD",
    "ceil": "CEIL",
    "cos": "COS",
    "div": "DIV",
    "exp": "EXP",
    "floor": "FLOOR",
    "hard_swish": "HARD_SWISH",
    "log": "LOG",
    "logistic": "LOGISTIC",
    "max": "MAXIMUM",
    "min": "MINIMUM",
    "mul": "MUL",
    "neg": "NEG",
    "pow": "POW",
    "relu6": "RELU6",
    "rsqrt": "RSQRT",
    "sign": "SIGN",
    "sin": "SIN",
    "sqrt": "SQRT",
    "square": "SQUARE",
    "sub": "SUB",
    "tanh": "TANH",
}
"""Primitives and patterns that are one operator."""

COMPARISONS = {
    "eq": "EQUAL",
    "ge": "GREATER_EQUAL",
    "gt": "GREATER",
    "le": "LESS_EQUAL",
    "lt": "LESS",
    "ne": "NOT_EQUAL",
}
ABSORBING = -1e30
"""From here down, what float32 numbers of less than 1e22 add to a number is lost by rounding."""

LOGIC = {"and": "LOGICAL_AND", "or": "LOGICAL_OR", "not": "LOGICAL_NOT"}


def _direct(code: str, lowering: Lowering, node: Node) -> Tensor:
    operands = lowering.operands(node)
    integers = operands[0].dtype.kind in "iu"
    if integers and code == "DIV" and lowering.program.types[node.ins[0]].dtype != jnp.int32:
        raise lowering.unsupported(f"of {operands[0].dtype}")
    return lowering.emit(code, operands, lowering.shape(node.outs[0]))


def _compare(code: str, lowering: Lowering, node: Node) -> Tensor:
    return lowering.emit(code, lowering.operands(node), lowering.shape(node.outs[0]), BOOL)


def _logic(code: str, lowering: Lowering, node: Node) -> Tensor:
    if lowering.dtype(node.ins[0]) != BOOL:
        raise lowering.unsupported(f"of {lowering.dtype(node.ins[0])}; only of booleans")
    return lowering.emit(code, lowering.operands(node), lowering.shape(node.outs[0]))


def _is_mask(which: Tensor, x: Tensor, low: Tensor) -> bool:
    """Whether a choice is between scores and a number so low that the scores add nothing to it.

    A sum with a row of such numbers is the same, and XNNPACK runs it, but not the choice.
    """
    if x.data is not None or low.data is None or low.data.size != 1 or x.dtype.kind != "f":
        return False
    wider = which.shape.count(1) > x.shape.count(1)
    return wider and len(which.shape) == len(x.shape) and float(low.data.item()) <= ABSORBING


def _select(lowering: Lowering, node: Node) -> Tensor:
    if len(node.ins) != 3 or lowering.dtype(node.ins[0]) != BOOL:
        raise lowering.unsupported("between other than two cases")
    shape = lowering.shape(node.outs[0])
    seen, *cases = (lowering.loose(value) for value in node.ins)
    for place, x in enumerate(cases):
        low = cases[1 - place]
        if x.shape == shape and _is_mask(seen, x, low):
            ends = [constant(np.zeros((), x.dtype))] * 2
            ends[1 - place] = constant(np.asarray(low.data, x.dtype).reshape(()))
            mask = lowering.emit("SELECT_V2", [seen, ends[1], ends[0]], seen.shape, x.dtype)
            return lowering.emit("ADD", [x, mask], shape)
    which, if_false, if_true = lowering.operands(node)
    return lowering.emit("SELECT_V2", [which, if_true, if_false], shape, if_true.dtype)


def _clamp(lowering: Lowering, node: Node) -> Tensor:
    low, x, high = (lowering.loose(value) for value in node.ins)
    shape = lowering.shape(node.outs[0])
    if x.shape != shape:
        x = lowering.tensor(node.ins[1])
    above = lowering.emit("MAXIMUM", [x, low], shape)
    return lowering.emit("MINIMUM", [above, high], shape)


def _cast(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    dtype = lowering.dtype(node.outs[0])
    if dtype == x.dtype:
        return x
    if dtype == BOOL:
        zero = constant(np.zeros((), x.dtype))
        return lowering.emit("NOT_EQUAL", [x, zero], x.shape, BOOL)
    return lowering.emit("CAST", [x], x.shape, dtype, inDataType=x.dtype, outDataType=dtype)


def _integer_pow(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    power = node.params["y"]
    one = constant(np.ones((), x.dtype))
    if power == 0:
        return constant(np.ones([n or 1 for n in x.shape], x.dtype))
    result = x
    for digit in bin(abs(power))[3:]:
        result = lowering.emit("MUL", [result, result], x.shape)
        if digit == "1":
            result = lowering.emit("MUL", [result, x], x.shape)
    return lowering.emit("DIV", [one, result], x.shape) if power < 0 else result


def _remainder(lowering: Lowering, node: Node) -> Tensor:
    """X - y trunc(x / y), as integers are divided."""
    x, y = lowering.operands(node)
    shape = lowering.shape(node.outs[0])
    if x.dtype.kind not in "iu":
        raise lowering.unsupported(f"of {x.dtype}; only of integers")
    whole = lowering.emit("DIV", [x, y], shape)
    return lowering.emit("SUB", [x, lowering.emit("MUL", [whole, y], shape)], shape)


def _round(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    if node.params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        return lowering.emit("ROUND", [x], x.shape)
    size = lowering.emit("ABS", [x], x.shape)
    half = lowering.emit("ADD", [size, constant(np.array(0.5, x.dtype))], x.shape)
    return lowering.emit(
        "MUL",
        [lowering.emit("SIGN", [x], x.shape), lowering.emit("FLOOR", [half], x.shape)],
        x.shape,
    )


def _after(steps: tuple[tuple[str, float | None], ...], lowering: Lowering, node: Node) -> Tensor:
    """A few operators in a row, each with a number as its second operand or none."""
    x = lowering.loose(node.ins[0])
    for code, number in steps:
        more = [] if number is None else [constant(np.array(number, x.dtype))]
        x = lowering.emit(code, [x, *more], x.shape)
    return x


def _silu(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    return lowering.emit("MUL", [x, lowering.emit("LOGISTIC", [x], x.shape)], x.shape)


def _gelu(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    return lowering.emit("GELU", [x], x.shape, approximate=node.op == "gelu_tanh")


def _error_function(sign: float, lowering: Lowering, node: Node) -> Tensor:
    """TFLite has no erf, but a GELU that is z (1 + erf(z / sqrt 2)) / 2."""
    x = lowering.loose(node.ins[0])
    z = lowering.emit("MUL", [x, constant(np.array(sign * np.sqrt(2.0), x.dtype))], x.shape)
    is_zero = lowering.emit("EQUAL", [z, constant(np.array(0.0, x.dtype))], x.shape, BOOL)
    z = lowering.emit(
        "SELECT_V2", [is_zero, constant(np.array(1e-20, x.dtype)), z], x.shape, x.dtype
    )
    gelu = lowering.emit("GELU", [z], x.shape, approximate=False)
    half = lowering.emit("DIV", [gelu, z], x.shape)
    return lowering.emit("ADD", [half, half], x.shape)


def _erf(lowering: Lowering, node: Node) -> Tensor:
    above = _error_function(1.0, lowering, node)
    return lowering.emit("SUB", [above, constant(np.array(1.0, above.dtype))], above.shape)


RULES: dict[str, Rule] = {
    **{op: partial(_direct, code) for op, code in DIRECT.items()},
    **{op: partial(_compare, code) for op, code in COMPARISONS.items()},
    **{op: partial(_logic, code) for op, code in LOGIC.items()},
    "clamp": _clamp,
    "convert_element_type": _cast,
    "erf": _erf,
    "erfc": partial(_error_function, -1.0),
    "exp2": partial(_after, (("MUL", float(np.log(2.0))), ("EXP", None))),
    "expm1": partial(_after, (("EXP", None), ("SUB", 1.0))),
    "gelu": _gelu,
    "gelu_tanh": _gelu,
    "hard_sigmoid": partial(_after, (("ADD", 3.0), ("RELU6", None), ("MUL", 1 / 6))),
    "integer_pow": _integer_pow,
    "log1p": partial(_after, (("ADD", 1.0), ("LOG", None))),
    "rem": _remainder,
    "round": _round,
    "select_n": _select,
    "silu": _silu,
}

"""Entry by entry: arithmetic, comparisons, choices, casts, activations."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from slim.export.onnx.lower import Lowering, Rule, literal, union
from slim.export.onnx.network import Tensor, Value, constant
from slim.export.program import Node

BOOL = np.dtype(bool)
DIRECT = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "hard_swish": "HardSwish",
    "log": "Log",
    "logistic": "Sigmoid",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tan": "Tan",
    "tanh": "Tanh",
}
"""Primitives and patterns that are one operator."""

COMPARISONS = {
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
}
ABSORBING = -1e30
"""From here down, what float32 numbers of less than 1e22 add to a number is lost by rounding."""

LOGIC = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}


def elementwise(
    lowering: Lowering,
    code: str,
    operands: Sequence[Tensor],
    dtype: np.dtype | None = None,
    **attributes: object,
) -> Tensor:
    """An operator over operands that broadcast, in the order in which one of them is stored."""
    rank = max(len(each.shape) for each in operands)
    order = tuple(range(rank))
    for each in operands:
        if each.data is None and len(each.shape) == rank and each.order != order:
            order = each.order
            break
    whole = any(each.data is None and len(each.shape) == rank for each in operands)
    ins = []
    for each in operands:
        value = lowering.stored(each, order if len(each.shape) == rank else None)
        if value.data is not None and whole:
            value = constant(_short(value.data), value.name)
        ins.append(value)
    shape = union([each.shape for each in operands])
    return lowering.emit(code, ins, shape, dtype or operands[-1].dtype, order, **attributes)


def _short(data: np.ndarray) -> np.ndarray:
    """Without the dimensions that broadcasting adds."""
    keep = next((d for d, n in enumerate(data.shape) if n != 1), data.ndim)
    return data.reshape(data.shape[keep:])


def number(x: Tensor, value: float) -> Tensor:
    """A scalar of a tensor's type."""
    return literal(np.asarray(value, x.dtype))


def _direct(code: str, lowering: Lowering, node: Node) -> Tensor:
    operands = [lowering.loose(value) for value in node.ins]
    if code == "Max":
        for x, other in (operands, operands[::-1]):
            zero = other.data is not None and other.data.size == 1 and not other.data.any()
            if zero and x.dtype.kind == "f":
                return elementwise(lowering, "Relu", [x])
    return elementwise(lowering, code, operands)


def _compare(code: str, lowering: Lowering, node: Node) -> Tensor:
    operands = [lowering.loose(value) for value in node.ins]
    if code != "Equal" and operands[0].dtype == BOOL:
        raise lowering.unsupported("of booleans")
    return elementwise(lowering, code, operands, BOOL)


def _not_equal(lowering: Lowering, node: Node) -> Tensor:
    return elementwise(lowering, "Not", [_compare("Equal", lowering, node)])


def _logic(code: str, lowering: Lowering, node: Node) -> Tensor:
    operands = [lowering.loose(value) for value in node.ins]
    return elementwise(lowering, code if operands[0].dtype == BOOL else f"Bitwise{code}", operands)


def _is_mask(which: Tensor, x: Tensor, low: Tensor) -> bool:
    """Whether a choice is between scores and a number so low that the scores add nothing to it.

    A sum with a row of such numbers is the same, and has faster kernels than a choice has.
    """
    if x.data is not None or low.data is None or low.data.size != 1 or x.dtype.kind != "f":
        return False
    wider = which.shape.count(1) > x.shape.count(1)
    return wider and len(which.shape) == len(x.shape) and float(low.data.item()) <= ABSORBING


def _select(lowering: Lowering, node: Node) -> Tensor:
    which, *cases = (lowering.loose(value) for value in node.ins)
    if which.dtype == BOOL:
        for place, x in enumerate(cases):
            if _is_mask(which, x, cases[1 - place]):
                ends = [number(x, 0.0)] * 2
                ends[1 - place] = cases[1 - place]
                added = elementwise(lowering, "Where", [which, ends[1], ends[0]])
                return elementwise(lowering, "Add", [x, added])
        return elementwise(lowering, "Where", [which, cases[1], cases[0]])
    out = cases[-1]
    for place in range(len(cases) - 2, -1, -1):
        chosen = elementwise(lowering, "Equal", [which, number(which, place)], BOOL)
        out = elementwise(lowering, "Where", [chosen, cases[place], out])
    return out


def _clamp(lowering: Lowering, node: Node) -> Tensor:
    low, x, high = (lowering.loose(value) for value in node.ins)
    if all(each.data is not None and each.data.size == 1 for each in (low, high)):
        ends = [constant(each.data.reshape(())) for each in (low, high) if each.data is not None]
        return lowering.emit(
            "Clip", [lowering.stored(x, x.order or None), *ends], x.shape, x.dtype, x.order or None
        )
    return elementwise(lowering, "Min", [elementwise(lowering, "Max", [x, low]), high])


def _relu6(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    ends: list[Value] = [constant(np.asarray(n, x.dtype)) for n in (0, 6)]
    return lowering.emit("Clip", [lowering.stored(x, x.order), *ends], x.shape, x.dtype, x.order)


def cast(lowering: Lowering, x: Tensor, dtype: np.dtype) -> Tensor:
    """The tensor in another type."""
    if dtype == x.dtype:
        return x
    if x.data is not None and x.grid is None:
        return literal(x.data.astype(dtype))
    return elementwise(lowering, "Cast", [x], dtype, to=dtype)


def _cast(lowering: Lowering, node: Node) -> Tensor:
    return cast(lowering, lowering.loose(node.ins[0]), lowering.dtype(node.outs[0]))


def _integer_pow(lowering: Lowering, node: Node) -> Tensor:
    x, power = lowering.loose(node.ins[0]), node.params["y"]
    if power == 0:
        return literal(np.ones((1,) * len(x.shape), x.dtype))
    result = x
    for digit in bin(abs(power))[3:]:
        result = elementwise(lowering, "Mul", [result, result])
        if digit == "1":
            result = elementwise(lowering, "Mul", [result, x])
    return elementwise(lowering, "Div", [number(x, 1), result]) if power < 0 else result


def _remainder(lowering: Lowering, node: Node) -> Tensor:
    operands = [lowering.loose(value) for value in node.ins]
    return elementwise(lowering, "Mod", operands, fmod=1)


def _round(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    if node.params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        return elementwise(lowering, "Round", [x])
    size = elementwise(lowering, "Add", [elementwise(lowering, "Abs", [x]), number(x, 0.5)])
    whole = elementwise(lowering, "Floor", [size])
    return elementwise(lowering, "Mul", [elementwise(lowering, "Sign", [x]), whole])


def _gelu(lowering: Lowering, node: Node) -> Tensor:
    how = "tanh" if node.op == "gelu_tanh" else "none"
    return elementwise(lowering, "Gelu", [lowering.loose(node.ins[0])], approximate=how)


def _silu(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    return elementwise(lowering, "Mul", [x, elementwise(lowering, "Sigmoid", [x])])


def _hard_sigmoid(lowering: Lowering, node: Node) -> Tensor:
    return elementwise(
        lowering, "HardSigmoid", [lowering.loose(node.ins[0])], alpha=1 / 6, beta=0.5
    )


def _after(steps: tuple[tuple[str, float | None], ...], lowering: Lowering, node: Node) -> Tensor:
    """A few operators in a row, each with a number as its second operand or none."""
    x = lowering.loose(node.ins[0])
    for code, value in steps:
        x = elementwise(lowering, code, [x] if value is None else [x, number(x, value)])
    return x


def _exp2(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    return elementwise(lowering, "Pow", [number(x, 2), x])


def _square(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    return elementwise(lowering, "Mul", [x, x])


def _is_finite(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.loose(node.ins[0])
    found = [elementwise(lowering, code, [x], BOOL) for code in ("IsInf", "IsNaN")]
    return elementwise(lowering, "Not", [elementwise(lowering, "Or", found, BOOL)])


RULES: dict[str, Rule] = {
    **{op: partial(_direct, code) for op, code in DIRECT.items()},
    **{op: partial(_compare, code) for op, code in COMPARISONS.items()},
    **{op: partial(_logic, code) for op, code in LOGIC.items()},
    "clamp": _clamp,
    "convert_element_type": _cast,
    "erfc": partial(_after, (("Erf", None), ("Neg", None), ("Add", 1.0))),
    "exp2": _exp2,
    "expm1": partial(_after, (("Exp", None), ("Sub", 1.0))),
    "gelu": _gelu,
    "gelu_tanh": _gelu,
    "hard_sigmoid": _hard_sigmoid,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": partial(_after, (("Add", 1.0), ("Log", None))),
    "ne": _not_equal,
    "relu6": _relu6,
    "rem": _remainder,
    "round": _round,
    "rsqrt": partial(_after, (("Sqrt", None), ("Reciprocal", None))),
    "select_n": _select,
    "silu": _silu,
    "square": _square,
}

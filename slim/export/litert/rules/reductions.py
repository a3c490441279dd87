"""Sums over dimensions and windows, and what is made of them: softmax, norms, pools."""

from functools import partial
from typing import Any

import numpy as np

from slim.export.litert.lower import Lowering, Rule
from slim.export.litert.network import Tensor, constant
from slim.export.litert.rules.contractions import is_same, pad
from slim.export.program import Node

REDUCE = {
    "mean": "MEAN",
    "reduce_and": "REDUCE_ALL",
    "reduce_max": "REDUCE_MAX",
    "reduce_min": "REDUCE_MIN",
    "reduce_or": "REDUCE_ANY",
    "reduce_prod": "REDUCE_PROD",
    "reduce_sum": "SUM",
}


def _reduce(code: str, lowering: Lowering, node: Node) -> Tensor:
    x = lowering.tensor(node.ins[0])
    axes = constant(list(node.params["axes"]))
    if not axes.shape[0]:
        return x
    if code in ("REDUCE_ALL", "REDUCE_ANY") and x.dtype != np.dtype(bool):
        raise lowering.unsupported(f"of {x.dtype}; only of booleans")
    shape = lowering.shape(node.outs[0])
    return lowering.emit(code, [x, axes], shape, keepDims=len(shape) == len(x.shape))


def _argument(code: str, lowering: Lowering, node: Node) -> Tensor:
    x, (axis,) = lowering.tensor(node.ins[0]), node.params["axes"]
    dtype, shape = np.dtype(np.int32), lowering.shape(node.outs[0])
    return lowering.emit(
        code, [x, constant(np.array(axis, np.int32))], shape, dtype, outputType=dtype
    )


def _cumsum(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.tensor(node.ins[0])
    axis = constant(np.array(node.params["axis"], np.int32))
    return lowering.emit("CUMSUM", [x, axis], x.shape, reverse=bool(node.params["reverse"]))


def _top_k(lowering: Lowering, node: Node) -> list[Tensor]:
    x, k = lowering.tensor(node.ins[0]), node.params["k"]
    if node.params.get("axis", len(x.shape) - 1) != len(x.shape) - 1:
        raise lowering.unsupported("along another dimension than the last")
    values = lowering.emit("TOPK_V2", [x, constant(np.array(k, np.int32))], (*x.shape[:-1], k))
    numbers = Tensor(values.shape, np.dtype(np.int32), f"value_{node.outs[1]}")
    lowering.ops[-1].outs.append(numbers)
    return [values, numbers]


def _softmax(code: str, lowering: Lowering, node: Node) -> Tensor:
    x, axis = lowering.tensor(node.ins[0]), node.params["axis"]
    order = [d for d in range(len(x.shape)) if d != axis % len(x.shape)] + [axis % len(x.shape)]
    moved = lowering.transpose(x, order)
    options: dict[str, Any] = {"beta": 1.0} if code == "SOFTMAX" else {}
    out = lowering.emit(code, [moved], moved.shape, **options)
    return lowering.transpose(out, [order.index(d) for d in range(len(order))])


def _window(node: Node, lowering: Lowering) -> tuple[list[int], list[int], bool]:
    """Sizes and strides over height and width, and whether channels come second."""
    params = node.params
    window, strides = list(params["window_dimensions"]), list(params["window_strides"])
    dilated = any(n != 1 for n in (*params["base_dilation"], *params["window_dilation"]))
    if dilated or len(window) not in (3, 4) or window[0] != 1:
        raise lowering.unsupported("other than a window over one or two dimensions")
    if window[-1] == 1:
        return window[1:-1], strides[1:-1], False
    if window[1] == 1:
        return window[2:], strides[2:], True
    raise lowering.unsupported(f"over a window {tuple(window)} of channels as well")


def _pool(code: str, lowering: Lowering, node: Node) -> Tensor:
    x = lowering.tensor(node.ins[0])
    window, strides, channels_first = _window(node, lowering)
    padding = [tuple(ends) for ends in node.params["padding"]]
    if channels_first:
        order = [0, *range(2, len(x.shape)), 1]
        x, padding = lowering.transpose(x, order), [padding[d] for d in order]
    sizes = [n or 1 for n in x.shape[1:-1]]
    same = code == "MAX_POOL_2D" and is_same(
        tuple(padding[1:-1]), sizes, window, strides, [1] * len(window)
    )
    if not same:
        # The least finite number: XNNPACK's pools take no infinities.
        fill = np.finfo(np.float32).min if code == "MAX_POOL_2D" else 0.0
        x = pad(lowering, x, padding, constant(np.array(fill, x.dtype)))
    given = lowering.shape(node.outs[0])
    seen = given[2:] if channels_first else given[1:-1]
    if len(window) == 1:
        window, strides = [1, *window], [1, *strides]
        x = lowering.reshape(x, (x.shape[0], 1, *x.shape[1:]))
    out = lowering.emit(
        code,
        [x],
        (x.shape[0], *((1, *seen) if len(seen) == 1 else seen), x.shape[-1]),
        padding="SAME" if same else "VALID",
        filterHeight=window[0],
        filterWidth=window[1],
        strideH=strides[0],
        strideW=strides[1],
    )
    if code == "AVERAGE_POOL_2D" and node.op == "reduce_window_sum":
        count = constant(np.array(window[0] * window[1], x.dtype))
        out = lowering.emit("MUL", [out, count], out.shape)
    out = lowering.reshape(out, (x.shape[0], *seen, x.shape[-1]))
    if channels_first:
        return lowering.transpose(out, [0, len(given) - 1, *range(1, len(given) - 1)])
    return out


RULES: dict[str, Rule] = {
    **{op: partial(_reduce, code) for op, code in REDUCE.items()},
    "argmax": partial(_argument, "ARG_MAX"),
    "argmin": partial(_argument, "ARG_MIN"),
    "cumsum": _cumsum,
    "log_softmax": partial(_softmax, "LOG_SOFTMAX"),
    "reduce_window_max": partial(_pool, "MAX_POOL_2D"),
    "reduce_window_sum": partial(_pool, "AVERAGE_POOL_2D"),
    "softmax": partial(_softmax, "SOFTMAX"),
    "top_k": _top_k,
}

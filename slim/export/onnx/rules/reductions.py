"""Sums over dimensions and windows, and what is made of them: softmax, norms, pools, orders."""

import math
from functools import partial

import numpy as np

from slim.export.onnx.lower import Lowering, Rule
from slim.export.onnx.network import Op, Tensor, Value, constant
from slim.export.onnx.rules.elementwise import BOOL, cast, elementwise, number
from slim.export.program import Node

REDUCE = {
    "mean": "ReduceMean",
    "reduce_and": "ReduceMin",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_or": "ReduceMax",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
}
INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)


def _reduce(code: str, lowering: Lowering, node: Node) -> Tensor:
    x, axes = lowering.tensor(node.ins[0]), node.params["axes"]
    if not axes:
        return x
    logic = x.dtype == BOOL
    if node.op in ("reduce_and", "reduce_or") and not logic:
        raise lowering.unsupported(f"of {x.dtype}; only of booleans")
    x = cast(lowering, x, INT32) if logic else x
    shape = lowering.shape(node.outs[0])
    whole = len(shape) == len(x.shape)
    order = x.order or tuple(range(len(x.shape)))
    ins = [lowering.stored(x, order), constant([order.index(d) for d in axes])]
    kept = [d for d in range(len(x.shape)) if whole or d not in axes]
    after = [kept.index(d) for d in order if d in kept]
    out = lowering.emit(code, ins, shape, x.dtype, after, keepdims=int(whole))
    return cast(lowering, out, BOOL) if logic else out


def _argument(code: str, lowering: Lowering, node: Node) -> Tensor:
    x, (axis,) = lowering.tensor(node.ins[0]), node.params["axes"]
    shape = lowering.shape(node.outs[0])
    out = lowering.emit(code, [lowering.stored(x)], shape, INT64, axis=axis, keepdims=0)
    return cast(lowering, out, lowering.dtype(node.outs[0]))


def _cumsum(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.tensor(node.ins[0])
    ins = [lowering.stored(x), constant(np.array(node.params["axis"]))]
    return lowering.emit("CumSum", ins, x.shape, x.dtype, reverse=int(node.params["reverse"]))


def _ordered(
    lowering: Lowering, x: Tensor, axis: int, k: int, largest: bool
) -> tuple[Tensor, Tensor]:
    """The k largest or smallest along a dimension, and their places."""
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    order = tuple(range(len(shape)))
    values, places = Value(shape, x.dtype), Value(shape, INT64)
    ins = [lowering.stored(x), constant([k])]
    attributes = {"axis": axis, "largest": int(largest), "sorted": 1}
    line = lowering.node.line if lowering.node else ""
    lowering.ops.append(Op("TopK", ins, [values, places], attributes, line))
    return Tensor(shape, x.dtype, values, order), Tensor(shape, INT64, places, order)


def _top_k(lowering: Lowering, node: Node) -> list[Tensor]:
    x = lowering.tensor(node.ins[0])
    axis = node.params.get("axis", len(x.shape) - 1) % len(x.shape)
    values, places = _ordered(lowering, x, axis, node.params["k"], True)
    return [values, cast(lowering, places, lowering.dtype(node.outs[1]))]


def _sort(lowering: Lowering, node: Node) -> list[Tensor]:
    keys, *rest = (lowering.tensor(value) for value in node.ins)
    axis, size = node.params["dimension"], keys.shape[node.params["dimension"]]
    if node.params["num_keys"] != 1 or size is None or keys.dtype == BOOL:
        raise lowering.unsupported("by several keys, over the batch, or of booleans")
    values, places = _ordered(lowering, keys, axis, size, False)
    where = lowering.stored(places)
    moved = [
        lowering.emit(
            "GatherElements", [lowering.stored(each), where], each.shape, each.dtype, axis=axis
        )
        for each in rest
    ]
    return [values, *moved]


def _softmax(lowering: Lowering, node: Node) -> Tensor:
    x, axis = lowering.tensor(node.ins[0]), node.params["axis"]
    order = x.order or tuple(range(len(x.shape)))
    code = "LogSoftmax" if node.op == "log_softmax" else "Softmax"
    ins = [lowering.stored(x, order)]
    return lowering.emit(code, ins, x.shape, x.dtype, order, axis=order.index(axis))


def _layer_norm(lowering: Lowering, node: Node) -> Tensor:
    x, axis = lowering.tensor(node.ins[0]), node.params["axis"]
    order = [*(d for d in x.order or range(len(x.shape)) if d != axis), axis]
    affine = [lowering.stored(lowering.tensor(value)) for value in node.ins[1:]]
    affine = affine or [constant(np.ones(x.shape[axis] or 1, np.float32))]
    ins, epsilon = [lowering.stored(x, order), *affine], node.params["epsilon"]
    return lowering.emit(
        "LayerNormalization", ins, x.shape, x.dtype, order, axis=-1, epsilon=epsilon
    )


def _pool(code: str, lowering: Lowering, node: Node) -> Tensor:
    x, params = lowering.tensor(node.ins[0]), node.params
    window, rank = params["window_dimensions"], len(x.shape)
    dilation = params.get("window_dilation", (1,) * rank)
    if any(n != 1 for n in params.get("base_dilation", (1,) * rank)):
        raise lowering.unsupported("with base_dilation")
    # Two dimensions that the window leaves as they are stand for the batch and the channels.
    still = [
        d
        for d in range(rank)
        if window[d] == 1 and params["window_strides"][d] == 1 and not any(params["padding"][d])
    ]
    if len(still) < 2:
        raise lowering.unsupported(f"over a window {tuple(window)} of channels as well")
    ahead = [0, 1] if still[:2] == [0, 1] and rank - 1 not in still else [still[0], still[-1]]
    moving = [d for d in range(rank) if d not in ahead]
    if not moving:
        return x
    if any(padding < 0 for d in moving for padding in params["padding"][d]):
        raise lowering.unsupported("with negative padding")
    if x.dtype.kind != "f":
        raise lowering.unsupported(f"of {x.dtype}")
    order = [*ahead, *moving]
    attributes = {"count_include_pad": 1} if code == "AveragePool" else {}
    out = lowering.emit(
        code,
        [lowering.stored(x, order)],
        lowering.shape(node.outs[0]),
        x.dtype,
        order,
        kernel_shape=[window[d] for d in moving],
        strides=[params["window_strides"][d] for d in moving],
        pads=[params["padding"][d][side] for side in (0, 1) for d in moving],
        dilations=[dilation[d] for d in moving],
        **attributes,
    )
    if node.op == "reduce_window_sum":
        count = math.prod(window[d] for d in moving)
        return elementwise(lowering, "Mul", [out, number(out, count)])
    return out


RULES: dict[str, Rule] = {
    **{op: partial(_reduce, code) for op, code in REDUCE.items()},
    "argmax": partial(_argument, "ArgMax"),
    "argmin": partial(_argument, "ArgMin"),
    "cumsum": _cumsum,
    "layer_norm": _layer_norm,
    "log_softmax": _softmax,
    "reduce_window_max": partial(_pool, "MaxPool"),
    "reduce_window_sum": partial(_pool, "AveragePool"),
    "softmax": _softmax,
    "sort": _sort,
    "top_k": _top_k,
}

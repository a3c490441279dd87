"""Operators joined as runtimes have them: norms and biases in convolutions, means, int32 biases."""

from collections.abc import Callable

import numpy as np

from slim.export.onnx.network import Network, Op, Value, constant

MOVES = frozenset({"MaxPool", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Flatten"})
"""What leaves numbers on the grid that they are on."""


def fuse(network: Network, *, integer_bias: bool = True) -> Network:
    """The same function, in operators that runtimes have fast kernels for.

    Args:
        network: changed in place.
        integer_bias: whether a bias between integers is int32, of the products' scale.
    """
    while _once(network):
        network.clean()
    _pooled(network)
    _sums(network)
    _ahead(network)
    _again(network)
    if integer_bias:
        _biases(network)
    network.clean()
    return network


def _once(network: Network) -> bool:
    """A sweep; whether anything was joined."""
    makers, readers = network.makers(), network.readers()
    touched: set[Value] = set()
    changed = False
    for op in network.ops:
        rule = RULES.get(op.code)
        if rule is None or len(op.ins) != 2 or not touched.isdisjoint(op.ins):
            continue
        variable = [v for v in op.ins if v.data is None]
        if len(variable) != 1 or variable[0] not in makers or variable[0] in network.outputs:
            continue
        if len(readers[variable[0]]) != 1:
            continue
        (other,) = (v for v in op.ins if v is not variable[0])
        maker = makers[variable[0]]
        if rule(op, maker, other, op.ins[0] is variable[0]):
            # The maker takes the result's place; the operator, now unread, goes.
            maker.outs, op.outs = [op.outs[0]], [Value((), op.outs[0].dtype)]
            touched.update((*maker.outs, *variable, *maker.ins))
            changed = True
    return changed


def _channels(data: np.ndarray, conv: Op) -> np.ndarray | None:
    """A constant beside a convolution's result as a number for each channel."""
    rank, count = len(conv.outs[0].shape), conv.outs[0].shape[1]
    if data.ndim > rank:
        return None
    data = data.reshape((1,) * (rank - data.ndim) + data.shape)
    if any(n != 1 for d, n in enumerate(data.shape) if d != 1) or count is None:
        return None
    return np.broadcast_to(data.ravel(), (count,)).astype(np.float32)


def _add(op: Op, maker: Op, other: Value, first: bool, sign: float = 1.0) -> bool:
    assert other.data is not None
    if maker.code != "Conv" or (sign < 0 and not first):
        return False
    if (bias := _channels(other.data, maker)) is None:
        return False
    if len(maker.ins) == 3:
        before = maker.ins[2].data
        assert before is not None
        bias = before + sign * bias
    else:
        bias = sign * bias
    maker.ins = [*maker.ins[:2], constant(bias.astype(np.float32))]
    return True


def _subtract(op: Op, maker: Op, other: Value, first: bool) -> bool:
    return _add(op, maker, other, first, -1.0)


def _least(op: Op, maker: Op, other: Value, first: bool) -> bool:
    if maker.code != "Relu" or other.data is None or other.data.size != 1:
        return False
    ends = [np.zeros((), other.dtype), other.data.reshape(())]
    maker.code, maker.ins = "Clip", [maker.ins[0], *map(constant, ends)]
    return True


RULES: dict[str, Callable[[Op, Op, Value, bool], bool]] = {
    "Add": _add,
    "Min": _least,
    "Sub": _subtract,
}


def _pooled(network: Network) -> None:
    """A mean over all of height and width, as the pool that runtimes have on integers."""
    ops = []
    for op in network.ops:
        axes = op.ins[1].data if op.code == "ReduceMean" else None
        if axes is None or len(op.ins[0].shape) != 4 or sorted(axes.tolist()) != [2, 3]:
            ops.append(op)
            continue
        (out,), x = op.outs, op.ins[0]
        whole = Value((*x.shape[:2], 1, 1), x.dtype)
        if len(out.shape) == 4:
            ops.append(Op("GlobalAveragePool", [x], [out], {}, op.line))
            continue
        ops.append(Op("GlobalAveragePool", [x], [whole], {}, op.line))
        ops.append(Op("Flatten", [whole], [out], {"axis": 1}, op.line))
    network.ops = ops


def _sums(network: Network) -> None:
    """Sums that a layer norm reads, as the operator that ONNX Runtime leaves beside the norm.

    An Add it joins with it (SkipLayerNormalization), which on CPUs takes several times as long.
    """
    readers = network.readers()
    for op in network.ops:
        after = readers.get(op.outs[0], [])
        whole = all(v.data is None and v.shape == op.outs[0].shape for v in op.ins)
        if op.code == "Add" and whole and any(r.code == "LayerNormalization" for r in after):
            op.code = "Sum"


def _ahead(network: Network) -> None:
    """Before a move of numbers that are then put on a grid, the grid: the move is on integers."""
    makers, readers = network.makers(), network.readers()
    ops: list[Op] = []
    for op in network.ops:
        after = readers.get(op.outs[0], [])
        quantizes = len(after) == 1 and after[0].code == "QuantizeLinear"
        source = makers.get(op.ins[0]) if op.ins else None
        moved = op.code in MOVES and quantizes and op.outs[0] not in network.outputs
        if moved and source is not None and source.code != "DequantizeLinear":
            op.ins = [_on_grid(ops, op.ins[0], after[0], op.line), *op.ins[1:]]
        ops.append(op)
    network.ops = ops


def _again(network: Network) -> None:
    """After a move of numbers on a grid, the grid once more: the move is then on integers."""
    makers, readers = network.makers(), network.readers()
    ops: list[Op] = []
    for op in network.ops:
        ops.append(op)
        source = makers.get(op.ins[0]) if op.ins else None
        if op.code not in MOVES or source is None or source.code != "DequantizeLinear":
            continue
        after = readers.get(op.outs[0], [])
        if source.ins[0].data is not None or [each.code for each in after] == ["QuantizeLinear"]:
            continue
        (out,) = op.outs
        op.outs = [Value(out.shape, out.dtype)]
        _on_grid(ops, op.outs[0], source, op.line, out)
        makers[out] = ops[-1]
    network.ops = ops


def _on_grid(ops: list[Op], value: Value, like: Op, line: str, out: Value | None = None) -> Value:
    """A value rounded to the grid of a QuantizeLinear or a DequantizeLinear."""
    grid = like.ins[1:]
    steps = Value(value.shape, grid[1].dtype)
    out = out or Value(value.shape, value.dtype)
    ops.append(Op("QuantizeLinear", [value, *grid], [steps], {}, line))
    ops.append(Op("DequantizeLinear", [steps, *grid], [out], {}, line))
    return out


def _biases(network: Network) -> None:
    makers, readers = network.makers(), network.readers()
    ops = []
    for op in network.ops:
        if op.code == "Conv" and len(op.ins) == 3:
            ops += _integer(op, 2, _scales(op, makers))
        elif op.code == "Add":
            place = next((i for i, v in enumerate(op.ins) if v.data is not None), None)
            product = (
                makers.get(op.ins[1 - place]) if place is not None and len(op.ins) == 2 else None
            )
            if place is not None and product is not None and product.code == "MatMul":
                bias = op.ins[place]
                if (
                    bias.data is not None
                    and bias.data.ndim == 1
                    and len(readers[product.outs[0]]) == 1
                ):
                    ops += _integer(op, place, _scales(product, makers))
        ops.append(op)
    network.ops = ops


def _scales(op: Op, makers: dict[Value, Op]) -> np.ndarray | None:
    """The scale of the products of integers; None where either operand is in floats."""
    found = [makers.get(value) for value in op.ins[:2]]
    scales = []
    for each in found:
        if each is None or each.code != "DequantizeLinear" or "block_size" in each.attributes:
            return None
        data = each.ins[1].data
        if data is None:
            return None
        scales.append(data)
    return scales[0] * scales[1] if scales[0].size == 1 else None


def _integer(op: Op, place: int, scale: np.ndarray | None) -> list[Op]:
    bias = op.ins[place]
    if scale is None or bias.data is None or bias.data.ndim != 1:
        return []
    steps = np.round(bias.data.astype(np.float64) / scale)
    if np.abs(steps).max(initial=0) > 2**31 - 1:
        return []
    scale = np.asarray(scale, np.float32)
    zero = np.zeros(scale.shape, np.int32)
    out = Value(bias.shape, np.dtype(np.float32))
    op.ins = [*op.ins[:place], out, *op.ins[place + 1 :]]
    ins = [constant(steps.astype(np.int32)), constant(scale), constant(zero)]
    attributes = {"axis": 0} if scale.ndim else {}
    return [Op("DequantizeLinear", ins, [out], attributes, op.line)]

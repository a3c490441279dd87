"""Weights in fewer bits, whatever the program says of them: float16, or int8 of dynamic range."""

import numpy as np

from slim.export.litert.fuse import CONTRACTIONS
from slim.export.litert.network import Grid, Network, Op, Tensor, constant

SMALLEST = 1024
"""Constants of fewer entries stay as they are: there is nothing to gain."""


def half(network: Network) -> Network:
    """Large constants as float16, each behind a DEQUANTIZE, which delegates see through.

    Raises:
        ValueError: a constant beyond what float16 holds.
    """
    wide: dict[Tensor, Tensor] = {}
    before: list[Op] = []

    def narrow(x: Tensor) -> Tensor:
        if x.data is None or x.dtype != np.float32 or x.data.size < SMALLEST:
            return x
        if x not in wide:
            if np.abs(x.data).max() > np.finfo(np.float16).max:
                raise ValueError(
                    f"{x.name} has a number of size {np.abs(x.data).max():.3g}, float16 ends at "
                    "65504; choose float32"
                )
            stored = constant(x.data.astype(np.float16), x.name)
            wide[x] = Tensor(x.shape, x.dtype, f"{x.name}_float")
            before.append(Op("DEQUANTIZE", [stored], [wide[x]]))
        return wide[x]

    for op in network.ops:
        op.ins = [narrow(each) for each in op.ins]
    return Network([*before, *network.ops], network.inputs, network.outputs)


def dynamic_range(network: Network) -> Network:
    """Large kernels and tables as int8, symmetric; kernels to be read by `integers(hybrid=True)`.

    A kernel has a scale for each output, a table one for each row.
    """
    small: dict[tuple[Tensor, int], Tensor] = {}

    def stored(x: Tensor, axis: int) -> Tensor:
        if (x, axis) not in small:
            small[x, axis] = _int8(x, axis)
        return small[x, axis]

    ops: list[Op] = []
    for op in network.ops:
        is_kernel = op.code in CONTRACTIONS
        x = op.ins[1 if is_kernel else 0]
        if x.data is None or x.dtype != np.float32 or x.data.size < SMALLEST:
            ops.append(op)
        elif is_kernel:
            op.ins[1] = stored(x, 3 if op.code == "DEPTHWISE_CONV_2D" else 0)
            if op.code == "FULLY_CONNECTED":
                op.options["asymmetricQuantizeInputs"] = True
            ops.append(op)
        elif op.code == "GATHER" and op.options["axis"] == 0:
            ops += _looked_up(op, stored(x, 0))
        else:
            ops.append(op)
    return Network(ops, network.inputs, network.outputs)


def _looked_up(op: Op, table: Tensor) -> list[Op]:
    """Rows of integers times their scales: TFLite's own grids have one scale for such a result."""
    assert table.data is not None
    assert table.grid is not None
    (_, ids), (out,) = op.ins, op.outs
    ones = (1,) * (table.data.ndim - 1)
    scales = constant(table.grid.scale.reshape(-1, *ones), f"{table.name}_scales")
    rows = Tensor(out.shape, table.dtype, f"{out.name}_integers")
    whole = Tensor(out.shape, out.dtype, f"{out.name}_whole")
    steps = Tensor((*ids.shape, *ones), out.dtype, f"{out.name}_scales")
    cast = {"inDataType": rows.dtype, "outDataType": whole.dtype}
    return [
        Op("GATHER", [constant(table.data, table.name), ids], [rows], op.options, op.line),
        Op("GATHER", [scales, ids], [steps], op.options, op.line),
        Op("CAST", [rows], [whole], cast, op.line),
        Op("MUL", [whole, steps], [out], {}, op.line),
    ]


def _int8(x: Tensor, axis: int) -> Tensor:
    assert x.data is not None
    others = tuple(d for d in range(x.data.ndim) if d != axis)
    size = np.abs(x.data).max(axis=others, keepdims=True)
    scale = (np.where(size > 0, size, 1.0) / 127).astype(np.float32)
    steps = np.clip(np.round(x.data / scale), -127, 127).astype(np.int8)
    return constant(steps, x.name, Grid(scale.ravel(), np.zeros(scale.size, np.int64), axis))

"""The first convolution of images, over blocks of them: see `slim.export.blocks`."""

import numpy as np

from slim.export.blocks import MOST_CHANNELS, SIDE, blocks, over_blocks
from slim.export.litert.network import Network, Op, Tensor, constant


def blocked_stems(network: Network) -> Network:
    """The same function; changed are convolutions by 8-bit kernels, with strides of two."""
    makers, readers = network.makers(), network.readers()
    ops: list[Op] = []
    for op in network.ops:
        pad = makers.get(op.ins[0]) if op.ins else None
        if pad is not None and (pad.code != "PAD" or len(readers[pad.outs[0]]) > 1):
            pad = None
        made = _blocked(op, pad)
        if made and pad is not None:
            ops.remove(pad)
        ops += made or [op]
    return Network(ops, network.inputs, network.outputs)


def _blocked(op: Op, pad: Op | None) -> list[Op]:
    """What stands for a convolution and the padding before it; nothing where it stays."""
    kernel = op.ins[1].data if op.code == "CONV_2D" else None
    if kernel is None or kernel.dtype != np.int8 or kernel.shape[3] > MOST_CHANNELS:
        return []
    strides = (op.options["strideH"], op.options["strideW"])
    dilation = (op.options.get("dilationHFactor", 1), op.options.get("dilationWFactor", 1))
    x, out = op.ins[0] if pad is None else pad.ins[0], op.outs[0]
    # The batch alone has no size before the network runs.
    sizes, results = ([n or 0 for n in each.shape[1:3]] for each in (x, out))
    low = _ahead(op, pad, sizes, results)
    if strides != (SIDE, SIDE) or dilation != (1, 1) or low is None:
        return []
    found = blocks(kernel.shape[1:3], low, sizes, results)
    if found is None:
        return []
    count, channels = [n // SIDE for n in sizes], SIDE**2 * kernel.shape[3]
    moved = Tensor((x.shape[0], *count, channels), x.dtype, f"{x.name}_blocks")
    around = [n + sum(each) for n, each in zip(count, found.padding, strict=True)]
    padded = Tensor((x.shape[0], *around, channels), x.dtype, f"{x.name}_padded")
    amounts = constant(np.array([(0, 0), *found.padding, (0, 0)], np.int32))
    stored = constant(over_blocks(kernel, found), op.ins[1].name, op.ins[1].grid)
    options = {**op.options, "strideH": 1, "strideW": 1, "padding": "VALID"}
    return [
        Op("SPACE_TO_DEPTH", [x], [moved], {"blockSize": SIDE}, op.line),
        Op("PAD", [moved, amounts], [padded], {}, op.line),
        Op("CONV_2D", [padded, stored, *op.ins[2:]], [out], options, op.line),
    ]


def _ahead(op: Op, pad: Op | None, sizes: list[int], results: list[int]) -> list[int] | None:
    """The zeros before the first row and column."""
    if pad is not None:
        amounts = pad.ins[1].data
        if amounts is None or op.options["padding"] != "VALID" or amounts[[0, 3]].any():
            return None
        return [int(n) for n in amounts[1:3, 0]]
    if op.options["padding"] == "VALID":
        return [0, 0]
    assert op.ins[1].data is not None
    rows = zip(sizes, results, op.ins[1].data.shape[1:3], strict=True)
    return [max((count - 1) * SIDE + taps - size, 0) // 2 for size, count, taps in rows]

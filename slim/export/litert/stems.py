"""Strided convolutions of few channels, as convolutions without strides of four times as many.

XNNPACK's 8-bit kernels read channels in eights: of an image's three, most of what they multiply is
nothing. Of blocks of two by two (SPACE_TO_DEPTH) there are twelve, and half as many taps a side.
"""

import numpy as np

from slim.export.litert.network import Network, Op, Tensor, constant

MOST_CHANNELS = 4
BLOCK = 2


def blocked_stems(network: Network) -> Network:
    """The same function; changed are convolutions by 8-bit kernels, with strides of two."""
    makers, readers = network.makers(), network.readers()
    ops: list[Op] = []
    for op in network.ops:
        pad = makers.get(op.ins[0]) if op.ins else None
        pad = pad if pad is not None and pad.code == "PAD" else None
        if pad is not None and len(readers[pad.outs[0]]) > 1:
            pad = None
        made = _blocked(op, pad)
        if made and pad is not None:
            ops.remove(pad)
        ops += made or [op]
    return Network(ops, network.inputs, network.outputs)


def _blocked(op: Op, pad: Op | None) -> list[Op]:
    """What stands for a convolution and the padding before it; nothing where it stays."""
    if op.code != "CONV_2D" or op.ins[1].data is None or op.ins[1].dtype != np.int8:
        return []
    strides = (op.options["strideH"], op.options["strideW"])
    dilation = (op.options.get("dilationHFactor", 1), op.options.get("dilationWFactor", 1))
    x = op.ins[0] if pad is None else pad.ins[0]
    out, kernel = op.outs[0], op.ins[1]
    few = op.ins[1].data.shape[3] <= MOST_CHANNELS
    if strides != (BLOCK, BLOCK) or dilation != (1, 1) or not few:
        return []
    # The batch alone has no size before the network runs.
    sizes = [n or 0 for n in x.shape[1:3]]
    counts = [n or 0 for n in out.shape[1:3]]
    low = _ahead(op, pad, sizes, counts)
    if low is None or any(n % BLOCK for n in sizes):
        return []
    taps, ends = [], []
    for d in (0, 1):
        before = low[d] % BLOCK
        count = -(-(op.ins[1].data.shape[1 + d] + before) // BLOCK)
        first = -(-low[d] // BLOCK)
        last = counts[d] - 1 + count - sizes[d] // BLOCK - first
        if last < 0:
            return []
        taps.append((before, count))
        ends.append((first, last))
    blocks, channels = [n // BLOCK for n in sizes], BLOCK**2 * op.ins[1].data.shape[3]
    moved = Tensor((x.shape[0], *blocks, channels), x.dtype, f"{x.name}_blocks")
    around = [n + sum(each) for n, each in zip(blocks, ends, strict=True)]
    padded = Tensor((x.shape[0], *around, channels), x.dtype, f"{x.name}_padded")
    amounts = constant(np.array([(0, 0), *ends, (0, 0)], np.int32))
    options = {**op.options, "strideH": 1, "strideW": 1, "padding": "VALID"}
    ins = [padded, _kernel(kernel, taps), *op.ins[2:]]
    return [
        Op("SPACE_TO_DEPTH", [x], [moved], {"blockSize": BLOCK}, op.line),
        Op("PAD", [moved, amounts], [padded], {}, op.line),
        Op("CONV_2D", ins, [out], options, op.line),
    ]


def _ahead(op: Op, pad: Op | None, sizes: list[int], counts: list[int]) -> list[int] | None:
    """The zeros before the first row and column."""
    if pad is not None:
        amounts = pad.ins[1].data
        if amounts is None or op.options["padding"] != "VALID" or amounts[[0, 3]].any():
            return None
        return [int(n) for n in amounts[1:3, 0]]
    if op.options["padding"] == "VALID":
        return [0, 0]
    assert op.ins[1].data is not None
    rows = zip(sizes, counts, op.ins[1].data.shape[1:3], strict=True)
    return [max((count - 1) * BLOCK + taps - size, 0) // 2 for size, count, taps in rows]


def _kernel(kernel: Tensor, taps: list[tuple[int, int]]) -> Tensor:
    """`(outputs, height, width, channels)` as it reads blocks, zeros around it."""
    assert kernel.data is not None
    outputs, *sides, channels = kernel.data.shape
    ends = [
        (before, BLOCK * count - before - side)
        for (before, count), side in zip(taps, sides, strict=True)
    ]
    data = np.pad(kernel.data, ((0, 0), *ends, (0, 0)))
    (_, rows), (_, columns) = taps
    data = data.reshape(outputs, rows, BLOCK, columns, BLOCK, channels)
    data = data.transpose(0, 1, 3, 2, 4, 5).reshape(outputs, rows, columns, -1)
    return constant(np.ascontiguousarray(data), kernel.name, kernel.grid)

"""The first convolution of images, over blocks of them: see `slim.export.blocks`."""

import numpy as np

from slim.export.blocks import MOST_CHANNELS, SIDE, blocks, over_blocks
from slim.export.onnx.network import Network, Op, Value, constant


def blocked_stems(network: Network) -> None:
    """Changes convolutions of integers with strides of two; blocks are made of floats before."""
    makers, readers = network.makers(), network.readers()
    new: dict[Op, list[Op]] = {}
    for op in network.ops:
        before = [makers.get(value) for value in op.ins[:2]] if op.code == "Conv" else []
        marked, kernel = before or (None, None)
        if marked is None or kernel is None:
            continue
        if {marked.code, kernel.code} != {"DequantizeLinear"} or kernel.ins[0].data is None:
            continue
        quantized = makers.get(marked.ins[0])
        alone = all(len(readers[each.outs[0]]) == 1 for each in (marked, kernel))
        if quantized is None or quantized.code != "QuantizeLinear" or not alone:
            continue
        if len(readers[quantized.outs[0]]) == 1 and (made := _blocked(op, quantized, kernel)):
            new[quantized] = [made]
            marked.outs[0].shape = quantized.outs[0].shape
    network.ops = [each for op in network.ops for each in (*new.get(op, ()), op)]


def _blocked(op: Op, quantized: Op, kernel: Op) -> Op | None:
    """The operator that makes blocks, after the others were changed to read them."""
    data, x, attributes = kernel.ins[0].data, quantized.ins[0], op.attributes
    assert data is not None
    if data.ndim != 4 or data.shape[1] > MOST_CHANNELS or attributes["group"] != 1:
        return None
    if attributes["strides"] != [SIDE, SIDE] or attributes["dilations"] != [1, 1]:
        return None
    if kernel.ins[1].data is None or (kernel.ins[1].data.ndim and kernel.attributes["axis"] != 0):
        return None
    sizes, results = ([n or 0 for n in each.shape[2:]] for each in (x, op.outs[0]))
    found = blocks(data.shape[2:], attributes["pads"][:2], sizes, results)
    if found is None:
        return None
    rows = over_blocks(data.transpose(0, 2, 3, 1), found).transpose(0, 3, 1, 2)
    stored = constant(np.ascontiguousarray(rows), kernel.ins[0].name)
    kernel.ins = [stored, *kernel.ins[1:]]
    kernel.outs[0].shape = rows.shape
    shape = (x.shape[0], rows.shape[1], *(n // SIDE for n in sizes))
    moved = Value(shape, x.dtype)
    quantized.ins = [moved, *quantized.ins[1:]]
    quantized.outs[0].shape = shape
    op.attributes = {
        **attributes,
        "kernel_shape": list(found.taps),
        "strides": [1, 1],
        "pads": [ends[side] for side in (0, 1) for ends in found.padding],
    }
    return Op("SpaceToDepth", [x], [moved], {"blocksize": SIDE}, op.line)

"""What moves entries and computes none."""

import numpy as np

from slim.export.litert.lower import Lowering, Rule
from slim.export.litert.network import Tensor, constant
from slim.export.litert.rules.contractions import pad
from slim.export.program import Node


def _reshape(lowering: Lowering, node: Node) -> Tensor:
    return lowering.reshape(lowering.tensor(node.ins[0]), lowering.shape(node.outs[0]))


def _transpose(lowering: Lowering, node: Node) -> Tensor:
    return lowering.transpose(lowering.tensor(node.ins[0]), node.params["permutation"])


def _broadcast(lowering: Lowering, node: Node) -> Tensor:
    """The operand with its dimensions in place and size one elsewhere; the reader broadcasts."""
    x = lowering.loose(node.ins[0])
    given = (1,) * (len(lowering.program.types[node.ins[0]].shape) - len(x.shape)) + x.shape
    sizes: list[int | None] = [1] * len(lowering.shape(node.outs[0]))
    for d, n in zip(node.params["broadcast_dimensions"], given, strict=True):
        sizes[d] = n
    return lowering.reshape(x, tuple(sizes))


def _concatenate(lowering: Lowering, node: Node) -> Tensor:
    parts = [lowering.tensor(value) for value in node.ins]
    shape = lowering.shape(node.outs[0])
    return lowering.emit("CONCATENATION", parts, shape, axis=node.params["dimension"])


def _slice(lowering: Lowering, node: Node) -> Tensor:
    x, shape = lowering.tensor(node.ins[0]), lowering.shape(node.outs[0])
    strides = node.params["strides"] or (1,) * len(shape)
    begin = [
        0 if n is None else m for n, m in zip(shape, node.params["start_indices"], strict=True)
    ]
    return lowering.strided(x, begin, strides, shape)


def _split(lowering: Lowering, node: Node) -> list[Tensor]:
    x, axis = lowering.tensor(node.ins[0]), node.params["axis"]
    parts, start = [], 0
    for value, size in zip(node.outs, node.params["sizes"], strict=True):
        shape = lowering.shape(value)
        begin = constant([start if d == axis else 0 for d in range(len(shape))])
        extent = constant([-1 if n is None else n for n in shape])
        parts.append(lowering.emit("SLICE", [x, begin, extent], shape))
        start += size
    return parts


def _dynamic_slice(lowering: Lowering, node: Node) -> Tensor:
    x, *starts = (lowering.tensor(value) for value in node.ins)
    shape = lowering.shape(node.outs[0])
    begin = lowering.emit(
        "PACK", starts, (len(starts),), np.dtype(np.int32), valuesCount=len(starts)
    )
    # JAX moves a slice that would reach past an end back inside.
    if None in x.shape:
        raise lowering.unsupported("of the batch")
    last = constant([(n or 0) - (m or 0) for n, m in zip(x.shape, shape, strict=True)])
    begin = lowering.emit("MINIMUM", [begin, last], begin.shape)
    begin = lowering.emit("MAXIMUM", [begin, constant([0] * len(starts))], begin.shape)
    return lowering.emit("SLICE", [x, begin, constant([n or 1 for n in shape])], shape)


def _pad(lowering: Lowering, node: Node) -> Tensor:
    x, fill = (lowering.tensor(value) for value in node.ins)
    amounts = node.params["padding_config"]
    if any(inside for _, _, inside in amounts):
        raise lowering.unsupported("between the entries")
    return pad(lowering, x, [(low, high) for low, high, _ in amounts], fill)


def _reverse(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.tensor(node.ins[0])
    for axis in node.params["dimensions"]:
        x = lowering.emit("REVERSE_V2", [x, constant([axis])], x.shape)
    return x


def _iota(lowering: Lowering, node: Node) -> Tensor:
    value = node.outs[0]
    sizes = [n or 1 for n in lowering.shape(value)]
    axis = node.params["dimension"]
    if lowering.shape(value)[axis] is None:
        raise lowering.unsupported("over the batch")
    counts = np.arange(sizes[axis], dtype=lowering.dtype(value))
    return constant(counts.reshape([-1 if d == axis else 1 for d in range(len(sizes))]))


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "transpose": _transpose,
}

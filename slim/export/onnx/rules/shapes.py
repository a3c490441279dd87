"""What moves entries and computes none."""

from collections.abc import Sequence

import numpy as np

from slim.export.onnx.lower import Lowering, Rule, literal
from slim.export.onnx.network import Shape, Tensor, Value, constant
from slim.export.onnx.rules.elementwise import cast
from slim.export.program import Node

INT64 = np.dtype(np.int64)


def _reshape(lowering: Lowering, node: Node) -> Tensor:
    return lowering.reshape(lowering.tensor(node.ins[0]), lowering.shape(node.outs[0]))


def permuted(x: Tensor, order: list[int]) -> Tensor:
    """A tensor with its dimensions in another order; nothing is moved."""
    shape = tuple(x.shape[d] for d in order)
    if x.data is not None:
        grid = x.grid and x.grid.map(lambda each: each.transpose(order))
        return Tensor(shape, x.dtype, data=x.data.transpose(order), grid=grid, name=x.name)
    return Tensor(shape, x.dtype, x.value, tuple(order.index(d) for d in x.order))


def _transpose(lowering: Lowering, node: Node) -> Tensor:
    return permuted(lowering.loose(node.ins[0]), list(node.params["permutation"]))


def _squeeze(lowering: Lowering, node: Node) -> Tensor:
    return squeezed(lowering, lowering.loose(node.ins[0]), node.params["dimensions"])


def squeezed(lowering: Lowering, x: Tensor, drop: Sequence[int]) -> Tensor:
    """A tensor without some dimensions of size one."""
    if not drop:
        return x
    kept = [d for d in range(len(x.shape)) if d not in drop]
    shape = tuple(x.shape[d] for d in kept)
    if x.data is not None:
        return lowering.reshape(x, shape)
    order = [kept.index(d) for d in x.order if d in kept]
    axes = constant([i for i, d in enumerate(x.order) if d not in kept])
    return lowering.emit("Squeeze", [lowering.stored(x, x.order), axes], shape, x.dtype, order)


def _broadcast(lowering: Lowering, node: Node) -> Tensor:
    """The operand with its dimensions in place and size one elsewhere; the reader broadcasts."""
    x, dims = lowering.loose(node.ins[0]), list(node.params["broadcast_dimensions"])
    rank = len(lowering.program.types[node.outs[0]].shape)
    sizes: list[int | None] = [1] * rank
    for d, n in zip(dims, x.shape, strict=True):
        sizes[d] = n
    if x.data is not None:
        return lowering.reshape(x, tuple(sizes))
    if len(dims) == rank:
        return x
    if x.order != tuple(range(len(dims))) and None not in sizes[1:]:
        order = [*(d for d in range(rank) if d not in dims), *(dims[d] for d in x.order)]
        axes = constant(list(range(rank - len(dims))))
        ins = [lowering.stored(x, x.order), axes]
        return lowering.emit("Unsqueeze", ins, tuple(sizes), x.dtype, order)
    axes = constant([d for d in range(rank) if d not in dims])
    return lowering.emit("Unsqueeze", [lowering.stored(x), axes], tuple(sizes), x.dtype)


def _concatenate(lowering: Lowering, node: Node) -> Tensor:
    parts = [lowering.tensor(value) for value in node.ins]
    order = next((p.order for p in parts if p.data is None), tuple(range(len(parts[0].shape))))
    shape, axis = lowering.shape(node.outs[0]), order.index(node.params["dimension"])
    ins = [lowering.stored(part, order) for part in parts]
    return lowering.emit("Concat", ins, shape, parts[0].dtype, order, axis=axis)


def sliced(
    lowering: Lowering,
    x: Tensor,
    shape: Shape,
    rows: list[tuple[int, int, int, int]],
) -> Tensor:
    """Rows (dimension, first, end, step) of a tensor."""
    if not rows:
        return x
    if x.data is not None:
        x = Tensor(x.shape, x.dtype, lowering.stored(x), tuple(range(len(x.shape))))
    dims, starts, ends, steps = (list(each) for each in zip(*rows, strict=True))
    axes = [x.order.index(d) for d in dims]
    ins = [lowering.stored(x, x.order), *map(constant, (starts, ends, axes, steps))]
    return lowering.emit("Slice", ins, shape, x.dtype, x.order)


def _slice(lowering: Lowering, node: Node) -> Tensor:
    x, shape = lowering.tensor(node.ins[0]), lowering.shape(node.outs[0])
    given = lowering.program.types[node.ins[0]].shape
    params = node.params
    strides = params["strides"] or (1,) * len(shape)
    rows = []
    for d, n in enumerate(given):
        first, end, step = params["start_indices"][d], params["limit_indices"][d], strides[d]
        if isinstance(first, int) and first == 0 and step == 1 and end == n:
            continue
        if not all(isinstance(each, int) for each in (first, end)):
            raise lowering.unsupported("by sizes of the batch")
        rows.append((d, first, end, step))
    return sliced(lowering, x, shape, rows)


def _split(lowering: Lowering, node: Node) -> list[Tensor]:
    x, axis = lowering.tensor(node.ins[0]), node.params["axis"]
    parts, start = [], 0
    for value, size in zip(node.outs, node.params["sizes"], strict=True):
        rows = [(axis, start, start + size, 1)]
        parts.append(sliced(lowering, x, lowering.shape(value), rows))
        start += size
    return parts


def starts_of(
    lowering: Lowering, starts: list[Tensor], dims: list[int], given: Shape, taken: Shape
) -> Value:
    """Where a slice begins, moved back inside as JAX does."""
    parts = [
        lowering.stored(lowering.reshape(cast(lowering, starts[d], INT64), (1,))) for d in dims
    ]
    begin = lowering.op("Concat", parts, (len(dims),), INT64, axis=0)
    last = constant([(given[d] or 0) - (taken[d] or 0) for d in dims])
    begin = lowering.op("Min", [begin, last], (len(dims),), INT64)
    return lowering.op("Max", [begin, constant([0] * len(dims))], (len(dims),), INT64)


def _dynamic_slice(lowering: Lowering, node: Node) -> Tensor:
    x, *starts = (lowering.tensor(value) for value in node.ins)
    shape = lowering.shape(node.outs[0])
    dims = [d for d, n in enumerate(shape) if n != x.shape[d]]
    if not dims:
        return x
    if any(x.shape[d] is None for d in dims):
        raise lowering.unsupported("of the batch")
    begin = starts_of(lowering, starts, dims, x.shape, shape)
    sizes = constant([shape[d] or 0 for d in dims])
    end = lowering.op("Add", [begin, sizes], (len(dims),), INT64)
    return lowering.emit("Slice", [lowering.stored(x), begin, end, constant(dims)], shape, x.dtype)


def _pad(lowering: Lowering, node: Node) -> Tensor:
    x, fill = (lowering.tensor(value) for value in node.ins)
    amounts, shape = node.params["padding_config"], lowering.shape(node.outs[0])
    if any(inside for _, _, inside in amounts):
        raise lowering.unsupported("between the entries")
    if x.data is not None:
        x = Tensor(x.shape, x.dtype, lowering.stored(x), tuple(range(len(x.shape))))
    if any(low < 0 or high < 0 for low, high, _ in amounts):
        rows, kept = [], list(x.shape)
        for d, (low, high, _) in enumerate(amounts):
            n = kept[d]
            if low >= 0 and high >= 0:
                continue
            if n is None:
                raise lowering.unsupported("of the batch")
            rows.append((d, max(-low, 0), n - max(-high, 0), 1))
            kept[d] = n - max(-high, 0) - max(-low, 0)
        x = sliced(lowering, x, tuple(kept), rows)
    ends = [[max(amounts[d][side], 0) for d in x.order] for side in (0, 1)]
    if not any(ends[0] + ends[1]):
        return x
    ins = [lowering.stored(x, x.order), constant(ends[0] + ends[1]), lowering.stored(fill)]
    return lowering.emit("Pad", ins, shape, x.dtype, x.order)


def _reverse(lowering: Lowering, node: Node) -> Tensor:
    x = lowering.tensor(node.ins[0])
    rows = [(d, -1, -(2**31), -1) for d in node.params["dimensions"]]
    return sliced(lowering, x, x.shape, rows)


def _iota(lowering: Lowering, node: Node) -> Tensor:
    value, axis = node.outs[0], node.params["dimension"]
    shape, dtype = lowering.shape(value), lowering.dtype(value)
    sizes = [-1 if d == axis else 1 for d in range(len(shape))]
    if (size := shape[axis]) is not None:
        return literal(np.arange(size, dtype=dtype).reshape(sizes))
    ends = [constant(np.array(0)), lowering.op("Squeeze", [lowering.batch()], (), INT64)]
    counts = lowering.emit("Range", [*ends, constant(np.array(1))], (None,), INT64)
    counts = cast(lowering, counts, dtype)
    return lowering.reshape(counts, tuple(None if n < 0 else 1 for n in sizes))


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
    "squeeze": _squeeze,
    "transpose": _transpose,
}

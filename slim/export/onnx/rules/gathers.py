"""Entries by number: embeddings, `x[ids]`, `take_along_axis`, `x[rows, columns]`, slices."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from slim.export.onnx.lower import Lowering, Rule, literal
from slim.export.onnx.network import Shape, Tensor
from slim.export.onnx.rules.elementwise import cast, elementwise
from slim.export.onnx.rules.shapes import permuted, sliced, squeezed
from slim.export.program import Node

INT64 = np.dtype(np.int64)


def _gather(lowering: Lowering, node: Node) -> Tensor:
    x, where = (lowering.tensor(value) for value in node.ins)
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    batching, axes = list(numbers.operand_batching_dims), list(numbers.start_index_map)
    if where.data is not None and not batching:
        found = _strided(where.data, axes, numbers.collapsed_slice_dims, sizes)
        if found is not None:
            return _slices(lowering, node, x, found)
    given = lowering.program.types[node.ins[0]].shape
    rest = [d for d in range(len(sizes)) if d not in axes and d not in batching]
    parts = any(sizes[d] != 1 for d in axes) or any(sizes[d] != given[d] for d in rest)
    if parts or set(numbers.collapsed_slice_dims) != set(axes):
        raise lowering.unsupported("of parts of rows; slice them first")
    if list(numbers.start_indices_batching_dims) != list(range(len(batching))):
        raise lowering.unsupported("whose batch dimensions are not the first of the numbers")
    if node.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        if any(x.shape[d] is None for d in axes):
            raise lowering.unsupported("over the batch")
        last = np.array([(x.shape[d] or 1) - 1 for d in axes], where.dtype)
        where = elementwise(lowering, "Min", [where, literal(last)])
        where = elementwise(lowering, "Max", [where, literal(np.zeros((), where.dtype))])
    ids: Shape = where.shape[:-1]
    shape = (*ids, *(x.shape[d] for d in rest))
    x = permuted(x, [*batching, *axes, *rest])
    if len(axes) == 1 and not batching:
        ins = [lowering.stored(x), lowering.stored(lowering.reshape(where, ids))]
        out = lowering.emit("Gather", ins, shape, x.dtype, axis=0)
    else:
        ins = [lowering.stored(x), lowering.stored(cast(lowering, where, INT64))]
        out = lowering.emit("GatherND", ins, shape, x.dtype, batch_dims=len(batching))
    return _placed(out, numbers.offset_dims, len(ids))


def _placed(out: Tensor, offsets: Sequence[int], ids: int) -> Tensor:
    """The rows' numbers come first; in JAX where `offset_dims` leave room."""
    of_rows, of_numbers = iter(range(ids, len(out.shape))), iter(range(ids))
    order = [next(of_rows) if d in offsets else next(of_numbers) for d in range(len(out.shape))]
    return permuted(out, order)


Strided = tuple[list[tuple[int, int, int, int]], list[int], list[int]]
"""Rows as of `shapes.sliced`; the operand's dimension of each of the numbers'; what then goes."""


def _strided(
    where: np.ndarray, axes: Sequence[int], collapsed: Sequence[int], sizes: Sequence[Any]
) -> Strided | None:
    """Slices that take what these numbers do; None if there are none."""
    ids = where.shape[:-1]
    rows, of, gone = [], dict.fromkeys(range(len(ids)), -1), []
    for place, axis in enumerate(axes):
        along = where[..., place]
        first = int(along.ravel()[0]) if along.size else -1
        varies = [d for d, n in enumerate(ids) if n > 1 and np.ptp(along, axis=d).any()]
        if first < 0 or len(varies) > int(axis in collapsed):
            return None
        if not varies:
            rows.append((axis, first, first + int(sizes[axis]), 1))
            gone += [axis] if axis in collapsed else []
            continue
        (d,) = varies
        line = np.moveaxis(along, d, 0).reshape(ids[d], -1)[:, 0]
        step = int(line[1] - line[0])
        if step < 1 or of[d] >= 0 or (np.diff(line) != step).any():
            return None
        of[d] = axis
        rows.append((axis, first, int(line[-1]) + 1, step))
    for d, n in enumerate(ids):
        if of[d] < 0 and (n != 1 or not gone):
            return None
        of[d] = gone.pop() if of[d] < 0 else of[d]
    return rows, [of[d] for d in range(len(ids))], gone


def _slices(lowering: Lowering, node: Node, x: Tensor, found: Strided) -> Tensor:
    rows, ids, gone = found
    given, sizes = lowering.program.types[node.ins[0]].shape, node.params["slice_sizes"]
    taken = {d for d, *_ in rows}
    rows += [(d, 0, n, 1) for d, n in enumerate(sizes) if d not in taken and n != given[d]]
    if any(not isinstance(end, int) for _, _, end, _ in rows):
        raise lowering.unsupported("by sizes of the batch")
    shape = list(x.shape)
    for d, first, end, step in rows:
        shape[d] = -((first - end) // step)
    out = squeezed(lowering, sliced(lowering, x, tuple(shape), rows), gone)
    kept = [d for d in range(len(shape)) if d not in gone]
    ids = [kept.index(d) for d in ids]
    out = permuted(out, [*ids, *(d for d in range(len(kept)) if d not in ids)])
    return _placed(out, node.params["dimension_numbers"].offset_dims, len(ids))


RULES: dict[str, Rule] = {"gather": _gather}

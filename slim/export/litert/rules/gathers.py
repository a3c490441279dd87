"""Gathers: rows looked up by number, and what slices of a symbolic batch are to JAX."""

import jax
import numpy as np

from slim.export.litert.lower import Lowering, Rule
from slim.export.litert.network import Tensor, constant
from slim.export.program import Node


def _gather(lowering: Lowering, node: Node) -> Tensor:
    where = lowering.tensor(node.ins[1])
    found = None if where.data is None else _slice(lowering, node, where.data)
    return _rows(lowering, node) if found is None else found


def _slice(lowering: Lowering, node: Node, where: np.ndarray) -> Tensor | None:
    """`x[:, ::2, 1:, 0]`: numbers that are known, evenly spaced and of a dimension of their own."""
    x, numbers = lowering.tensor(node.ins[0]), node.params["dimension_numbers"]
    if numbers.operand_batching_dims or x.data is not None:
        return None
    rank = len(x.shape)
    begin, strides = [0] * rank, [1] * rank
    sizes = [n if isinstance(n, int) else None for n in node.params["slice_sizes"]]
    of_dim: dict[int, int] = {}
    for column, d in enumerate(numbers.start_index_map):
        starts = where[..., column]
        varying = [
            k for k, n in enumerate(starts.shape) if n > 1 and (starts != starts.take([0], k)).any()
        ]
        begin[d] = int(starts.flat[0]) if starts.size else 0
        if not varying:
            continue
        row = np.moveaxis(starts, varying[0], -1).reshape(-1, starts.shape[varying[0]])[0]
        steps = np.unique(np.diff(row))
        if len(varying) > 1 or steps.size != 1 or steps[0] < 1 or sizes[d] != 1:
            return None
        if varying[0] in of_dim or d not in numbers.collapsed_slice_dims:
            return None
        of_dim[varying[0]], strides[d], sizes[d] = d, int(steps[0]), row.size
    shape = lowering.shape(node.outs[0])
    looked_up = [k for k, n in enumerate(where.shape[:-1]) if n > 1]
    if any(k not in of_dim for k in looked_up):
        return None
    taken = lowering.strided(x, begin, strides, tuple(sizes))
    kept = iter(d for d in range(rank) if d not in numbers.collapsed_slice_dims)
    asked = iter(range(where.ndim - 1))
    sources = [
        next(kept) if d in numbers.offset_dims else of_dim.get(next(asked))
        for d in range(len(shape))
    ]
    order = [d for d in sources if d is not None]
    squeezed = sorted(order)
    taken = lowering.reshape(taken, tuple(sizes[d] for d in squeezed))
    return lowering.reshape(lowering.transpose(taken, [squeezed.index(d) for d in order]), shape)


def _rows(lowering: Lowering, node: Node) -> Tensor:
    """Rows of one dimension by number: `x[ids]`, `x[:, ids]`, `jnp.take`, `take_along_axis`."""
    x, where = (lowering.tensor(value) for value in node.ins)
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    batching = tuple(numbers.operand_batching_dims)
    axes = numbers.start_index_map
    if len(axes) != 1 or numbers.collapsed_slice_dims not in ((axes[0],), ()):
        raise lowering.unsupported("by several numbers at once; take along one dimension at a time")
    axis = axes[0]
    rest = [d for d in range(len(sizes)) if d != axis and d not in batching]
    if sizes[axis] != 1 or any(_size(sizes[d]) != x.shape[d] for d in rest):
        raise lowering.unsupported("of parts of rows; slice them first")
    if batching != tuple(numbers.start_indices_batching_dims) or batching != tuple(
        range(len(batching))
    ):
        raise lowering.unsupported("whose batch dimensions are not the first of both operands")
    ids = lowering.reshape(where, where.shape[:-1])
    if node.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        last = constant(np.array((x.shape[axis] or 1) - 1, ids.dtype))
        ids = lowering.emit("MINIMUM", [ids, last], ids.shape)
        ids = lowering.emit("MAXIMUM", [ids, constant(np.array(0, ids.dtype))], ids.shape)
    count = len(batching)
    shape = (*x.shape[:axis], *ids.shape[count:], *x.shape[axis + 1 :])
    out = lowering.emit("GATHER", [x, ids], shape, axis=axis, batchDims=count)
    return _placed(lowering, out, node, axis, len(ids.shape) - count)


def _placed(lowering: Lowering, out: Tensor, node: Node, axis: int, ids: int) -> Tensor:
    """GATHER puts the rows' numbers where the dimension was; JAX where `offset_dims` say."""
    rank, offsets = len(lowering.shape(node.outs[0])), node.params["dimension_numbers"].offset_dims
    count = len(node.params["dimension_numbers"].operand_batching_dims)
    if node.params["dimension_numbers"].collapsed_slice_dims == ():
        shape = list(out.shape)
        shape.insert(axis + ids, 1)
        out = lowering.reshape(out, tuple(shape))
    numbers = [*range(count), *range(axis, axis + ids)]
    rows = [d for d in range(rank) if d not in numbers]
    order, of_rows, of_numbers = [], iter(rows), iter(numbers)
    for d in range(rank):
        order.append(next(of_rows) if d in offsets else next(of_numbers))
    return lowering.transpose(out, order)


def _size(n: object) -> int | None:
    return n if isinstance(n, int) else None


RULES: dict[str, Rule] = {"gather": _gather}

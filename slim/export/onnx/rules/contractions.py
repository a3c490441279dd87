"""Products and convolutions."""

import numpy as np

from slim.export.onnx.lower import Lowering, Rule, product
from slim.export.onnx.network import Shape, Tensor, Value
from slim.export.onnx.rules.shapes import permuted
from slim.export.program import Node

FLOAT = np.dtype(np.float32)


def _dot(lowering: Lowering, node: Node) -> Tensor:
    left, right = (lowering.tensor(value) for value in node.ins)
    (l_sum, r_sum), (l_batch, r_batch) = node.params["dimension_numbers"]
    l_free, r_free = _others(left, l_sum, l_batch), _others(right, r_sum, r_batch)
    if right.data is not None and not r_batch:
        return _by_constant(lowering, left, l_sum, right, r_sum)
    if left.data is not None and not l_batch:
        swapped = _by_constant(lowering, right, r_sum, left, l_sum)
        count = len(l_free) + len(r_free)
        return permuted(swapped, [*range(len(r_free), count), *range(len(r_free))])
    one, other = (left, [*l_batch], l_free, [*l_sum]), (right, [*r_batch], r_free, [*r_sum])
    if _moves(other, one) < _moves(one, other):
        swapped = _product(lowering, other, one)
        ahead = len(l_batch)
        count = ahead + len(l_free) + len(r_free)
        middle = ahead + len(r_free)
        return permuted(swapped, [*range(ahead), *range(middle, count), *range(ahead, middle)])
    return _product(lowering, one, other)


Side = tuple[Tensor, list[int], list[int], list[int]]


def _moves(one: Side, other: Side) -> int:
    """How many operands must be transposed for one times the other."""
    left, batch, free, summed = one
    right, r_batch, r_free, r_sum = other
    count = left.data is None and left.order != (*batch, *free, *summed)
    return int(count) + int(right.data is None and right.order != (*r_batch, *r_sum, *r_free))


def _product(lowering: Lowering, one: Side, other: Side) -> Tensor:
    """(batch..., one's free..., the other's free...)."""
    left, l_batch, l_free, l_sum = one
    right, r_batch, r_free, r_sum = other
    batch = tuple(left.shape[d] for d in l_batch)
    rows, columns = _sizes(left, l_free), _sizes(right, r_free)
    depth = _sizes(left, l_sum)
    a = lowering.reshape(permuted(left, [*l_batch, *l_free, *l_sum]), (*batch, rows, depth))
    b = lowering.reshape(permuted(right, [*r_batch, *r_sum, *r_free]), (*batch, depth, columns))
    ins = [lowering.stored(a), lowering.stored(b)]
    out = lowering.emit("MatMul", ins, (*batch, rows, columns), left.dtype)
    shape = (*batch, *(left.shape[d] for d in l_free), *(right.shape[d] for d in r_free))
    return lowering.reshape(out, shape)


def _by_constant(
    lowering: Lowering,
    x: Tensor,
    x_sum: tuple[int, ...],
    kernel: Tensor,
    kernel_sum: tuple[int, ...],
) -> Tensor:
    """A product with a constant: (what is left of x..., of the kernel...)."""
    free, outputs = _others(x, x_sum, ()), _others(kernel, kernel_sum, ())
    depth, width = _sizes(kernel, list(kernel_sum)), _sizes(kernel, outputs)
    matrix = lowering.stored(
        lowering.reshape(permuted(kernel, [*kernel_sum, *outputs]), (depth, width))
    )
    ends = tuple(kernel.shape[d] for d in outputs)
    kept = [d for d in x.order or range(len(x.shape)) if d in free]
    if len(x_sum) == 1 and free:
        value = lowering.stored(x, [*kept, *x_sum])
    else:
        kept = free
        rows: Shape = tuple(x.shape[d] for d in free) or (1,)
        value = lowering.stored(lowering.reshape(permuted(x, [*free, *x_sum]), (*rows, depth)))
    shape = tuple(x.shape[d] for d in free)
    order = [*(free.index(d) for d in kept), len(free)]
    if not free:
        out = lowering.emit("MatMul", [value, matrix], (1, width), x.dtype)
        return lowering.reshape(out, ends)
    out = lowering.emit("MatMul", [value, matrix], (*shape, width), x.dtype, order)
    return lowering.reshape(out, (*shape, *ends))


def _others(x: Tensor, *taken: tuple[int, ...]) -> list[int]:
    return [d for d in range(len(x.shape)) if not any(d in dims for dims in taken)]


def _sizes(x: Tensor, dims: list[int]) -> int | None:
    return product([x.shape[d] for d in dims])


def _conv(lowering: Lowering, node: Node) -> Tensor:
    x, kernel = (lowering.tensor(value) for value in node.ins)
    params = node.params
    lhs, rhs, out = params["dimension_numbers"]
    if any(n != 1 for n in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise lowering.unsupported("with lhs_dilation or batch_group_count")
    padding = [*(low for low, _ in params["padding"]), *(high for _, high in params["padding"])]
    if min(padding, default=0) < 0:
        raise lowering.unsupported("with negative padding")
    if kernel.data is None and any(n is None for n in kernel.shape):
        raise lowering.unsupported("with a kernel of the batch")
    ins: list[Value] = [lowering.stored(x, lhs), lowering.stored(kernel, rhs)]
    return lowering.emit(
        "Conv",
        ins,
        lowering.shape(node.outs[0]),
        FLOAT,
        out,
        kernel_shape=[kernel.shape[d] for d in rhs[2:]],
        strides=list(params["window_strides"]),
        pads=padding,
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )


RULES: dict[str, Rule] = {"conv_general_dilated": _conv, "dot_general": _dot}

"""Products and convolutions.

TFLite's convolution reads (batch, height, width, channels) and a kernel (out, height, width, in);
its FULLY_CONNECTED a kernel (out, in) and the last dimension of its operand.
"""

import math

import numpy as np

from slim.export.litert.lower import Lowering, Rule, product
from slim.export.litert.network import Shape, Tensor, constant
from slim.export.program import Node


def _dot(lowering: Lowering, node: Node) -> Tensor:
    left, right = (lowering.tensor(value) for value in node.ins)
    (l_sum, r_sum), (l_batch, r_batch) = node.params["dimension_numbers"]
    l_free = _others(left, l_sum, l_batch)
    r_free = _others(right, r_sum, r_batch)
    shape = lowering.shape(node.outs[0])
    if right.data is not None and not r_batch:
        return lowering.reshape(_fully_connected(lowering, left, l_sum, right, r_sum), shape)
    if left.data is not None and not l_batch:
        swapped = _fully_connected(lowering, right, r_sum, left, l_sum)
        sizes = [right.shape[d] for d in r_free] + [left.shape[d] for d in l_free]
        swapped = lowering.reshape(swapped, tuple(sizes))
        order = [*range(len(r_free), len(sizes)), *range(len(r_free))]
        return lowering.transpose(swapped, order)
    batch = tuple(left.shape[d] for d in l_batch)
    if len(batch) > 3:
        batch = (product(batch),)
    rows, columns = _sizes(left, l_free), _sizes(right, r_free)
    depth = _sizes(left, l_sum)
    left = lowering.reshape(
        lowering.transpose(left, [*l_batch, *l_free, *l_sum]), (*batch, rows, depth)
    )
    # The right operand may have the summed dimension last or before it: whichever it has already.
    last = bool(r_sum) and max(r_sum) == len(right.shape) - 1
    order = [*r_batch, *r_free, *r_sum] if last else [*r_batch, *r_sum, *r_free]
    right = lowering.transpose(right, order)
    right = lowering.reshape(right, (*batch, columns, depth) if last else (*batch, depth, columns))
    out = lowering.emit("BATCH_MATMUL", [left, right], (*batch, rows, columns), adjY=last)
    return lowering.reshape(out, shape)


def _fully_connected(
    lowering: Lowering,
    x: Tensor,
    x_sum: tuple[int, ...],
    kernel: Tensor,
    kernel_sum: tuple[int, ...],
) -> Tensor:
    """A product with a constant: (what is left of x..., outputs)."""
    free = _others(x, x_sum, ())
    depth = math.prod(kernel.shape[d] or 1 for d in kernel_sum)
    rows: Shape = tuple(x.shape[d] for d in free) or (1,)
    x = lowering.reshape(lowering.transpose(x, [*free, *x_sum]), (*rows, depth))
    kernel = lowering.transpose(kernel, [*_others(kernel, kernel_sum, ()), *kernel_sum])
    kernel = _matrix(lowering, kernel, len(kernel_sum))
    (outputs, _) = kernel.shape
    return lowering.emit("FULLY_CONNECTED", [x, kernel], (*rows, outputs), keepNumDims=True)


def _matrix(lowering: Lowering, kernel: Tensor, summed: int) -> Tensor:
    """A kernel (outputs..., summed...) as (outputs, summed), its scales along with it."""
    assert kernel.data is not None
    split = kernel.data.ndim - summed
    outputs = math.prod(kernel.data.shape[:split])
    grid = kernel.grid
    if kernel.data.ndim == 2 and summed == 1 and (grid is None or grid.axis == 0):
        return kernel  # the same tensor, which an embedding may share
    if grid is not None and grid.scale.size > 1:
        if grid.axis >= split:
            raise lowering.unsupported("a weight with scales along what is summed over")
        along = [n if d == grid.axis else 1 for d, n in enumerate(kernel.data.shape[:split])]
        scale, zero = (
            np.broadcast_to(each.reshape(along), kernel.data.shape[:split]).ravel()
            for each in grid[:2]
        )
        grid = grid._replace(scale=scale, zero_point=zero, axis=0)
    return constant(kernel.data.reshape(outputs, -1), kernel.name, grid)


def _others(x: Tensor, *taken: tuple[int, ...]) -> list[int]:
    return [d for d in range(len(x.shape)) if not any(d in dims for dims in taken)]


def _sizes(x: Tensor, dims: list[int] | tuple[int, ...]) -> int | None:
    return product([x.shape[d] for d in dims])


def _conv(lowering: Lowering, node: Node) -> Tensor:
    x, kernel = (lowering.tensor(value) for value in node.ins)
    params = node.params
    lhs, rhs, out = params["dimension_numbers"]
    spatial, groups = len(lhs) - 2, params["feature_group_count"]
    if spatial not in (1, 2):
        raise lowering.unsupported(
            f"{spatial} spatial dimensions; there are convolutions of 1 and 2"
        )
    if any(n != 1 for n in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise lowering.unsupported("with lhs_dilation or batch_group_count")
    x = lowering.transpose(x, [lhs[0], *lhs[2:], lhs[1]])
    (batch, *_, features) = x.shape
    depthwise = groups > 1 and groups == features
    kernel = lowering.transpose(
        kernel, [rhs[1], *rhs[2:], rhs[0]] if depthwise else [rhs[0], *rhs[2:], rhs[1]]
    )
    window = [n or 1 for n in kernel.shape[1:-1]]
    strides, dilation = list(params["window_strides"]), list(params["rhs_dilation"])
    x, padding = _padded(lowering, x, params["padding"], window, strides, dilation)
    if spatial == 1:
        strides, dilation = [1, *strides], [1, *dilation]
        x = lowering.reshape(x, (batch, 1, *x.shape[1:]))
        kernel = _with_height(lowering, kernel)
    outputs = kernel.shape[-1] if depthwise else kernel.shape[0]
    given = lowering.shape(node.outs[0])
    seen = tuple(given[d] for d in out[2:])
    result = lowering.emit(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [x, kernel],
        (batch, *((1, *seen) if spatial == 1 else seen), outputs),
        padding=padding,
        strideH=strides[0],
        strideW=strides[1],
        dilationHFactor=dilation[0],
        dilationWFactor=dilation[1],
        **({"depthMultiplier": (outputs or 1) // groups} if depthwise else {}),
    )
    result = lowering.reshape(result, (batch, *seen, outputs))
    stored = [out[0], *out[2:], out[1]]
    return lowering.transpose(result, [stored.index(d) for d in range(len(stored))])


def _with_height(lowering: Lowering, kernel: Tensor) -> Tensor:
    shape = (kernel.shape[0], 1, *kernel.shape[1:])
    if kernel.data is None:
        return lowering.reshape(kernel, shape)
    grid = kernel.grid
    if grid is not None and grid.axis > 0:
        grid = grid._replace(axis=grid.axis + 1)
    return constant(np.expand_dims(kernel.data, 1), kernel.name, grid)


def _padded(
    lowering: Lowering,
    x: Tensor,
    padding: tuple[tuple[int, int], ...],
    window: list[int],
    strides: list[int],
    dilation: list[int],
) -> tuple[Tensor, str]:
    """The operand and TFLite's word for its padding; without one it is padded, or cut, first."""
    sizes = [n or 1 for n in x.shape[1:-1]]
    if is_same(padding, sizes, window, strides, dilation):
        return x, "SAME"
    return pad(lowering, x, [(0, 0), *padding, (0, 0)]), "VALID"


def is_same(
    padding: tuple[tuple[int, int], ...],
    sizes: list[int],
    window: list[int],
    strides: list[int],
    dilation: list[int],
) -> bool:
    """Whether it is the padding that TFLite calls SAME: ceil(n / stride) results."""
    expected = []
    for n, w, stride, step in zip(sizes, window, strides, dilation, strict=True):
        total = max((-(-n // stride) - 1) * stride + (w - 1) * step + 1 - n, 0)
        expected.append((total // 2, total - total // 2))
    return any(map(any, expected)) and [tuple(each) for each in padding] == expected


def pad(
    lowering: Lowering, x: Tensor, amounts: list[tuple[int, int]], fill: Tensor | None = None
) -> Tensor:
    """The operand with more entries at its ends; fewer where an amount is negative."""
    if any(n < 0 for ends in amounts for n in ends):
        begin = [max(-low, 0) for low, _ in amounts]
        sizes = [
            None if n is None else n - b - max(-high, 0)
            for n, b, (_, high) in zip(x.shape, begin, amounts, strict=True)
        ]
        extent = constant([-1 if n is None else n for n in sizes])
        x = lowering.emit("SLICE", [x, constant(begin), extent], tuple(sizes))
    amounts = [(max(low, 0), max(high, 0)) for low, high in amounts]
    if not any(map(any, amounts)):
        return x
    shape = tuple(
        None if n is None else n + sum(ends) for n, ends in zip(x.shape, amounts, strict=True)
    )
    ends = constant(np.array(amounts, np.int32))
    if fill is None or (fill.data is not None and not fill.data.any()):
        return lowering.emit("PAD", [x, ends], shape)
    return lowering.emit("PADV2", [x, ends, fill], shape)


RULES: dict[str, Rule] = {"conv_general_dilated": _conv, "dot_general": _dot}

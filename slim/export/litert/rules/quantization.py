"""fake_quant: of a weight its integers; of an activation a mark that `litert.integers` reads."""

import ml_dtypes
import numpy as np

from slim.export.litert.lower import Lowering, Rule
from slim.export.litert.network import Grid, Tensor, constant
from slim.export.program import Node
from slim.quant.numerics import Format, find_format


def _fake_quant(lowering: Lowering, node: Node) -> Tensor:
    fmt = find_format(node.params["format"])
    if not fmt.is_integer:
        raise lowering.unsupported(f"to {fmt.name}; TFLite has integers only")
    grid = _grid(lowering, node, fmt)
    shift = 0 if fmt.is_signed else 1 << (fmt.bits - 1)
    low, high = fmt.low - shift, fmt.high - shift
    x = lowering.tensor(node.ins[0])
    if x.data is not None:
        sizes = [-1 if d == grid.axis else 1 for d in range(x.data.ndim)]
        scale, zero = (each.reshape(sizes if each.size > 1 else ()) for each in grid[:2])
        steps = np.clip(np.round(x.data / scale) + zero, low, high)
        return constant(steps.astype(ml_dtypes.int4 if fmt.bits <= 4 else np.int8), x.name, grid)
    if grid.scale.size > 1:
        raise lowering.unsupported("an activation with several scales")
    if fmt.bits < 8:
        return _in_floats(lowering, x, grid, low, high)
    mark = lowering.emit("FAKE_QUANT", [x], x.shape)
    mark.grid = grid
    return mark


def _grid(lowering: Lowering, node: Node, fmt: Format) -> Grid:
    """The grid; unsigned numbers as signed ones, lower by half the range: the same numbers."""
    if node.params.get("group") is not None:
        raise lowering.unsupported("with scales for groups within a channel")
    scale = np.asarray(node.params["scale"], np.float32)
    dims = [d for d, n in enumerate(scale.shape) if n > 1]
    axis = node.params["axis"]
    if axis is None and dims:
        (axis,) = dims
    given = node.params["zero_point"]
    zero = np.zeros_like(scale) if given is None else np.asarray(given)
    shift = 0 if fmt.is_signed else 1 << (fmt.bits - 1)
    return Grid(scale.ravel(), zero.astype(np.int64).ravel() - shift, axis or 0)


def _in_floats(lowering: Lowering, x: Tensor, grid: Grid, low: int, high: int) -> Tensor:
    """Activations of fewer than eight bits, which TFLite has no kernels for."""
    scale, zero = grid.scale.reshape(()), grid.zero_point.reshape(())
    for code, number in (
        ("DIV", scale),
        ("ROUND", None),
        ("MAXIMUM", low - zero),
        ("MINIMUM", high - zero),
        ("MUL", scale),
    ):
        more = [] if number is None else [constant(np.asarray(number, np.float32))]
        x = lowering.emit(code, [x, *more], x.shape)
    return x


RULES: dict[str, Rule] = {"fake_quant": _fake_quant}

"""fake_quant: of a constant its integers; of an activation QuantizeLinear and DequantizeLinear."""

import numpy as np

from slim.export.onnx.lower import Lowering, Rule, literal
from slim.export.onnx.network import Grid, Tensor, constant
from slim.export.onnx.rules.elementwise import elementwise
from slim.export.program import Node
from slim.quant.numerics import Format, find_format


def _fake_quant(lowering: Lowering, node: Node) -> Tensor:
    fmt = find_format(node.params["format"])
    if not fmt.is_integer or fmt.bits > 8:
        raise lowering.unsupported(f"to {fmt.name}; there are integers of up to 8 bits only")
    scale = np.asarray(node.params["scale"], np.float32)
    given = node.params["zero_point"]
    zero = np.zeros(scale.shape, np.int32) if given is None else np.asarray(given, np.int32)
    x = lowering.tensor(node.ins[0])
    if x.data is not None:
        return _constant(x, Grid(scale, zero, 4 if fmt.bits <= 4 else 8), fmt)
    if scale.size > 1:
        raise lowering.unsupported("an activation with several scales")
    if fmt.bits < 8:
        return _in_floats(lowering, x, scale, zero, fmt)
    return _activation(lowering, x, scale, zero, fmt)


def _constant(x: Tensor, grid: Grid, fmt: Format) -> Tensor:
    assert x.data is not None
    scale, zero = (spread_to(each, x.data.shape) for each in (grid.scale, grid.zero))
    steps = np.clip(np.round(x.data / scale) + zero, fmt.low, fmt.high)
    dtype = np.int8 if fmt.is_signed else np.uint8
    return Tensor(x.shape, x.dtype, data=steps.astype(dtype), grid=grid, name=x.name)


def spread_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scales of groups, one for each entry; others as they are."""
    for d, n in enumerate(array.shape):
        if n not in (1, shape[d]):
            array = np.repeat(array, shape[d] // n, axis=d)
    return array


def _activation(
    lowering: Lowering, x: Tensor, scale: np.ndarray, zero: np.ndarray, fmt: Format
) -> Tensor:
    """On the same numbers, as unsigned integers but for TensorRT, which wants signed ones."""
    number = int(zero.reshape(()))
    if lowering.profile == "tensorrt":
        if not fmt.is_signed or number:
            raise lowering.unsupported(
                "an activation that is not symmetric int8 around zero; quantize with symmetric=True"
            )
        dtype: np.dtype = np.dtype(np.int8)
    else:
        number += 128 if fmt.is_signed else 0
        dtype = np.dtype(np.uint8)
    order = x.order
    ins = [constant(scale.reshape(())), constant(np.asarray(number, dtype))]
    steps = lowering.emit(
        "QuantizeLinear", [lowering.stored(x, order), *ins], x.shape, dtype, order
    )
    again = [constant(scale.reshape(())), constant(np.asarray(number, dtype))]
    floats = np.dtype(np.float32)
    assert steps.value is not None
    return lowering.emit("DequantizeLinear", [steps.value, *again], x.shape, floats, order)


def _in_floats(
    lowering: Lowering, x: Tensor, scale: np.ndarray, zero: np.ndarray, fmt: Format
) -> Tensor:
    """Activations of fewer than eight bits, which runtimes have no kernels for."""
    size = literal(scale.reshape(()))
    ends = (fmt.low - zero.reshape(()), fmt.high - zero.reshape(()))
    low, high = (literal(np.asarray(n, np.float32)) for n in ends)
    x = elementwise(lowering, "Round", [elementwise(lowering, "Div", [x, size])])
    x = elementwise(lowering, "Min", [elementwise(lowering, "Max", [x, low]), high])
    return elementwise(lowering, "Mul", [x, size])


RULES: dict[str, Rule] = {"fake_quant": _fake_quant}

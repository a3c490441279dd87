"""A network as the bytes of a .tflite file, and its metadata read again.

The schema's classes come with `ai-edge-litert`, the interpreter's own package (extra `litert`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from slim.export.litert.network import Network, Op, Tensor

OPTIONS = {
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "ARG_MAX": "ArgMaxOptions",
    "ARG_MIN": "ArgMinOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "CUMSUM": "CumsumOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GELU": "GeluOptions",
    "MEAN": "ReducerOptions",
    "PACK": "PackOptions",
    "REDUCE_ALL": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUM": "ReducerOptions",
}
"""The operators with options, and the schema's name of these."""


def schema() -> Any:
    """The generated classes of TFLite's schema.

    Raises:
        ModuleNotFoundError: `ai-edge-litert` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "target 'litert' needs ai-edge-litert: pip install -e '.[litert]'"
        ) from error
    return schema_py_generated


def to_bytes(network: Network, metadata: Mapping[str, str]) -> bytes:
    """The file; one signature, `serving_default`, has the names of the inputs and outputs."""
    import flatbuffers

    tfl = schema()
    tensors: list[Any] = []
    buffers = [tfl.BufferT()]
    number: dict[Tensor, int] = {}
    used: set[str] = set()

    def add(tensor: Tensor) -> int:
        if tensor not in number:
            number[tensor] = len(tensors)
            each = _tensor(tfl, tensor)
            each.name = _free(tensor.name, used)
            if tensor.data is not None:
                each.buffer = len(buffers)
                buffers.append(_buffer(tfl, _stored(tensor.data)))
            tensors.append(each)
        return number[tensor]

    def listed(name: str, tensor: Tensor) -> Any:
        entry = tfl.TensorMapT()
        entry.name, entry.tensorIndex = name, number[tensor]
        return entry

    graph = tfl.SubGraphT()
    codes: dict[str, int] = {}
    graph.name = "main"
    graph.inputs = [add(each) for each in network.inputs.values()]
    graph.operators = []
    for op in network.ops:
        each = tfl.OperatorT()
        each.opcodeIndex = codes.setdefault(op.code, len(codes))
        each.inputs = [add(tensor) for tensor in op.ins]
        each.outputs = [add(tensor) for tensor in op.outs]
        _set_options(tfl, each, op)
        graph.operators.append(each)
    graph.outputs = [add(each) for each in network.outputs.values()]
    graph.tensors = tensors

    signature = tfl.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [listed(*each) for each in network.inputs.items()]
    signature.outputs = [listed(*each) for each in network.outputs.items()]

    model = tfl.ModelT()
    model.version, model.description = 3, "slim"
    model.operatorCodes = [_code(tfl, code) for code in codes]
    model.subgraphs, model.signatureDefs, model.metadata = [graph], [signature], []
    for name, text in metadata.items():
        entry = tfl.MetadataT()
        entry.name, entry.buffer = name, len(buffers)
        buffers.append(_buffer(tfl, np.frombuffer(text.encode(), np.uint8)))
        model.metadata.append(entry)
    model.buffers = buffers
    builder = flatbuffers.Builder(
        1024 + sum(len(each.data) for each in buffers if each.data is not None)
    )
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_metadata(model: bytes) -> dict[str, str]:
    """What was written as `metadata`."""
    file = schema().ModelT.InitFromPackedBuf(model)
    return {
        entry.name.decode(): bytes(file.buffers[entry.buffer].data).decode()
        for entry in file.metadata or []
    }


def tensor_types(model: bytes) -> dict[str, str]:
    """The type of every tensor by name, as the schema calls it: `INT8`, `FLOAT32` ..."""
    tfl = schema()
    names = {code: name for name, code in vars(tfl.TensorType).items() if not name.startswith("_")}
    (graph,) = tfl.ModelT.InitFromPackedBuf(model).subgraphs
    return {tensor.name.decode(): names[tensor.type] for tensor in graph.tensors}


def operators(model: bytes) -> list[str]:
    """The names of the operators, in order."""
    tfl = schema()
    names = {code: name for name, code in vars(tfl.BuiltinOperator).items() if name[0] != "_"}
    file = tfl.ModelT.InitFromPackedBuf(model)
    codes = [
        names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in file.operatorCodes
    ]
    return [codes[op.opcodeIndex] for op in file.subgraphs[0].operators]


def _free(name: str, used: set[str]) -> str:
    """The name; with a number where another tensor has it."""
    found, count = name, 1
    while found in used:
        count += 1
        found = f"{name}_{count}"
    used.add(found)
    return found


def _tensor(tfl: Any, tensor: Tensor) -> Any:
    each = tfl.TensorT()
    each.shape = [1 if size is None else size for size in tensor.shape]
    if None in tensor.shape:
        each.shapeSignature = [-1 if size is None else size for size in tensor.shape]
    each.type = getattr(tfl.TensorType, tensor.dtype.name.upper())
    each.hasRank = True
    if tensor.grid is not None:
        each.quantization = tfl.QuantizationParametersT()
        each.quantization.scale = tensor.grid.scale.astype(np.float32)
        each.quantization.zeroPoint = tensor.grid.zero_point.astype(np.int64)
        each.quantization.quantizedDimension = tensor.grid.axis
    return each


def _stored(data: np.ndarray) -> np.ndarray:
    """The bytes of a constant; 4-bit integers two a byte, the first in the low half."""
    if data.dtype.name == "int4":
        halves = data.astype(np.int8).view(np.uint8).ravel() & 15
        halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
        return halves[::2] | halves[1::2] << 4
    return np.frombuffer(data.tobytes(), np.uint8)


def _buffer(tfl: Any, data: np.ndarray) -> Any:
    class Aligned(tfl.BufferT):
        """A buffer at a multiple of 16 bytes, as the schema asks; its generated code forgets to."""

        def Pack(self, builder: Any) -> int:
            builder.Prep(16, data.size)
            return super().Pack(builder)

    buffer = Aligned()
    buffer.data = data
    return buffer


def _code(tfl: Any, name: str) -> Any:
    code = tfl.OperatorCodeT()
    code.builtinCode = getattr(tfl.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 1
    return code


def _set_options(tfl: Any, operator: Any, op: Op) -> None:
    if op.code not in OPTIONS:
        return
    name = OPTIONS[op.code]
    operator.builtinOptionsType = getattr(tfl.BuiltinOptions, name)
    operator.builtinOptions = getattr(tfl, f"{name}T")()
    for field, value in op.options.items():
        if field == "fusedActivationFunction":
            value = getattr(tfl.ActivationFunctionType, value)
        elif field == "padding":
            value = getattr(tfl.Padding, value)
        elif isinstance(value, np.dtype):
            value = getattr(tfl.TensorType, value.name.upper())
        setattr(operator.builtinOptions, field, value)

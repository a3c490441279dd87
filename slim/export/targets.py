"""Where models go: one line a target."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from slim.export import coreml, litert, onnx, openvino, stablehlo, tensorrt
from slim.export.program import Unsupported

__all__ = ["TARGETS", "Target", "Unsupported"]


class Target(NamedTuple):
    """A kind of file.

    Attributes:
        write: `(program, *, metadata) -> bytes`, or files' bytes by path.
        suffix: of the file's name.
        extra: what must be installed: `pip install -e '.[extra]'`; "" is nothing.
        dynamic_batch: whether the batch may be a symbol.
        precisions: that it can be written in.
        runs: whether its runtime is there on Linux.
    """

    write: Any
    suffix: str
    extra: str
    dynamic_batch: bool
    precisions: tuple[str, ...]
    runs: bool


TARGETS: Mapping[str, Target] = {
    "stablehlo": Target(stablehlo.write, "", "", True, ("float32", "int8", "int4"), True),
    "litert": Target(litert.write, ".tflite", "litert", True, ("float32", "int8"), True),
    "litert_float16": Target(litert.write_float16, ".tflite", "litert", True, ("float16",), True),
    "litert_dynamic": Target(
        litert.write_dynamic_range, ".tflite", "litert", True, ("dynamic_range",), True
    ),
    "coreml": Target(
        coreml.write, ".mlpackage", "coreml", False, ("float16", "int8", "int4"), False
    ),
    "onnx": Target(onnx.write, ".onnx", "onnx", True, ("float32", "int8", "int4"), True),
    "openvino": Target(openvino.write, ".xml", "openvino", True, ("float32", "int8"), True),
    "tensorrt": Target(tensorrt.write, ".onnx", "onnx", True, ("float32", "int8"), False),
}

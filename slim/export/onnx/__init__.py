"""Program to an ONNX model, for ONNX Runtime and what reads its files (OpenVINO, TensorRT ...).

    model = onnx.write(program)                     # float32
    model = onnx.write(program_with_fake_quant)     # integers where it has marks

A writer of its own: jax2onnx 0.17.1 was tried, and gets ResNets wrong. Marks of activations become
QuantizeLinear and DequantizeLinear, marks of weights int8 with scales (int4 in blocks where only
weights are marked, which ONNX Runtime runs as MatMulNBits).

A value is called `value_<n>` after the Program's value n, so that any can be made an output when a
difference is traced to where it begins.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from slim.export.onnx.file import to_model
from slim.export.onnx.fuse import fuse
from slim.export.onnx.lower import lower
from slim.export.onnx.rules import RULES
from slim.export.onnx.stems import blocked_stems
from slim.export.passes import matched
from slim.export.program import Program

__all__ = ["model", "write"]


def write(program: Program, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an .onnx file.

    Args:
        program: after `passes.standard`.
        metadata: texts by name, the file's `metadata_props`.

    Raises:
        Unsupported: a node that ONNX has no operators for, with its line of user code.
        ModuleNotFoundError: `onnx` is not installed.
        ValueError: a parameter that is not finite.
    """
    return bytes(model(program, metadata=metadata).SerializeToString())


def model(
    program: Program, *, metadata: Mapping[str, str] | None = None, profile: str = "onnx"
) -> Any:
    """The ModelProto; `profile` is the target: "tensorrt" wants symmetric int8 and float biases.

    Raises:
        ValueError: as `write`.
    """
    for value, data in program.constants.items():
        name, array = program.names.get(value), np.asarray(data)
        if name is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} has numbers that are not finite; train it again, or mend it")
    program = matched(program, RULES)
    network = fuse(lower(program, RULES, profile=profile), integer_bias=profile != "tensorrt")
    if profile == "onnx":
        blocked_stems(network)
    return to_model(network, metadata or {})

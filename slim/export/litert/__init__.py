"""Program to .tflite bytes, for LiteRT (TensorFlow Lite) and what reads its files (Arm NN ...).

    model = litert.write(program)                   # float32
    model = litert.write(program_with_fake_quant)   # integers where it has marks
    model = litert.write_float16(program)           # weights stored as float16
    model = litert.write_dynamic_range(program)     # weights stored as int8

A writer of its own over TFLite's schema, which `ai-edge-litert` (the interpreter's package) holds:
TensorFlow is not needed, nor a converter. `litert-converter` 0.5.0 was tried: it wants another
`typing-extensions` than chex can live with, and weighs 288 MiB.

The first dimension may be dynamic: the file then says -1, is allocated for one example, and
`Interpreter.resize_tensor_input` makes it another number.

Tensors are called `value_<n>` after the Program's value n where the network has one of that value
(fusing leaves some out); an interpreter made with `experimental_preserve_all_tensors=True` and
`experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES` can read each,
which is how a difference is traced to where it begins.
"""

from collections.abc import Mapping

import numpy as np

from slim.export.litert.flatbuffer import operators, read_metadata, tensor_types, to_bytes
from slim.export.litert.fuse import fuse
from slim.export.litert.integers import integers
from slim.export.litert.lower import lower
from slim.export.litert.network import Network
from slim.export.litert.rules import RULES
from slim.export.litert.stems import blocked_stems
from slim.export.litert.weights import dynamic_range, half
from slim.export.passes import matched
from slim.export.program import Program

__all__ = [
    "operators",
    "read_metadata",
    "tensor_types",
    "write",
    "write_dynamic_range",
    "write_float16",
]


def write(program: Program, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a .tflite file with one signature, `serving_default`.

    A contraction is computed in integers where both operands and the result are fake_quant values
    (weights symmetric); what is between contractions where the result is marked as well, or where
    it only moves entries. What is not so marked is computed in floats. Formats of fewer than eight
    bits are stored in eight, but for weights of four.

    Args:
        program: after `passes.standard`.
        metadata: texts by name, written into the file; `read_metadata` gives them back.

    Raises:
        Unsupported: a node that TFLite has no operators for, with its line of user code.
        ModuleNotFoundError: `ai-edge-litert` is not installed.
        ValueError: a parameter that is not finite.
    """
    return to_bytes(integers(blocked_stems(_fused(program))), metadata or {})


def write_float16(program: Program, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """As `write`, but large float constants are stored as float16; computed is in float32.

    Raises:
        ValueError: as `write`; a constant beyond what float16 holds.
    """
    return to_bytes(half(integers(_fused(program))), metadata or {})


def write_dynamic_range(program: Program, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """As `write`, but large float kernels and tables are stored as int8.

    Every contraction with integer weights and float activations quantizes the latter as it runs,
    each by its own range: small differences from the Program are its nature.

    Raises:
        ValueError: as `write`.
    """
    return to_bytes(integers(dynamic_range(_fused(program)), hybrid=True), metadata or {})


def _fused(program: Program) -> Network:
    for value, data in program.constants.items():
        name, data = program.names.get(value), np.asarray(data)
        if name is not None and data.dtype.kind == "f" and not np.isfinite(data).all():
            raise ValueError(f"{name} has numbers that are not finite; train it again, or mend it")
    return fuse(lower(matched(program, RULES), RULES))

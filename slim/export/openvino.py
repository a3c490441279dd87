"""Program to OpenVINO's IR, `model.xml` and `model.bin`, by way of the ONNX model.

    files = openvino.write(program)
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU")

Integers stay integers: OpenVINO makes FakeQuantize of QuantizeLinear and DequantizeLinear, and its
plugins int8 kernels of these. It computes floats in bfloat16 where the processor can: the property
`INFERENCE_PRECISION_HINT` "f32" has it otherwise.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from slim.export import onnx
from slim.export.program import Program


def library() -> Any:
    """The `openvino` package, without its telemetry.

    That is sent, when the package is imported, by a process that is forked: beside JAX's threads it
    may never end.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "target 'openvino' needs openvino: pip install -e '.[openvino]'"
        ) from error
    return openvino


def write(program: Program, *, metadata: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files of an IR by name; numbers in float32, metadata under `rt_info`.

    Args:
        program: after `passes.standard`.
        metadata: texts by name, in the `slim` section of the model's runtime information.

    Raises:
        Unsupported: a node that ONNX has no operators for, with its line of user code.
        ModuleNotFoundError: `openvino` or `onnx` is not installed.
        ValueError: a parameter that is not finite.
    """
    openvino = library()
    proto = onnx.model(program, profile="openvino")
    model = openvino.Core().read_model(proto.SerializeToString())
    for name, text in (metadata or {}).items():
        model.set_rt_info(text, ["slim", name])
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(model, path, compress_to_fp16=False)
        return {each.name: each.read_bytes() for each in (path, path.with_suffix(".bin"))}

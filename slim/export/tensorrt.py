"""Program to the ONNX that TensorRT's explicit quantization wants, and the script that builds it.

    files = tensorrt.write(program)     "model.onnx", "build.sh"
    sh build.sh                         where TensorRT is: "model.engine"

TensorRT takes int8 symmetric around zero, and biases as floats. What runs the engine needs an
NVIDIA GPU with TensorRT; here the ONNX model is checked and its numbers compared with JAX.
"""

from collections.abc import Mapping

from slim.export import onnx
from slim.export.program import Program, is_symbol

SCRIPT = """#!/bin/sh
# Builds model.engine of model.onnx beside it; $1, $2, $3: the least, usual and largest batch.
set -eu
cd "$(dirname "$0")"
least=${{1:-1}} usual=${{2:-1}} largest=${{3:-32}}
exec trtexec --onnx=model.onnx --saveEngine=model.engine{options}
"""


def write(program: Program, *, metadata: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """The files by name.

    Args:
        program: after `passes.standard`; activations marked int8 with zero point 0.
        metadata: texts by name, the model's `metadata_props`.

    Raises:
        Unsupported: a node that ONNX or TensorRT has nothing for, with its line of user code.
        ModuleNotFoundError: `onnx` is not installed.
        ValueError: a parameter that is not finite.
    """
    model = onnx.model(program, metadata=metadata, profile="tensorrt")
    return {"model.onnx": bytes(model.SerializeToString()), "build.sh": _script(program).encode()}


def _script(program: Program) -> str:
    marked = any(node.op == "fake_quant" for node in program.nodes)
    options = [" --int8 --fp16" if marked else " --fp16"]
    for option, batch in (("min", "least"), ("opt", "usual"), ("max", "largest")):
        shapes = []
        for name, value in program.inputs:
            sizes = program.types[value].shape
            if any(is_symbol(n) for n in sizes):
                text = "x".join(f"${{{batch}}}" if is_symbol(n) else str(n) for n in sizes)
                shapes.append(f"{name}:{text}")
        if shapes:
            options.append(f' --{option}Shapes="{",".join(shapes)}"')
    return SCRIPT.format(options=" \\\n ".join(options))

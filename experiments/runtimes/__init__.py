"""The programs that run exported artefacts. A new one is a file here and its place in `RUNTIMES`.

    session = RUNTIMES["onnxruntime"].load(path, threads=1)
    session.run({"input": images})["logits"]

Nothing heavy is imported until a runtime loads something, so that a process which runs one of them
holds that one alone; `experiments.runtimes.worker` makes such processes.
"""

from collections.abc import Mapping

from experiments.runtimes import litert, onnx_runtime, openvino_runtime, stablehlo
from experiments.runtimes.runtime import Runtime, Session

RUNTIMES: Mapping[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        stablehlo.RUNTIME,
        onnx_runtime.RUNTIME,
        openvino_runtime.RUNTIME,
        litert.RUNTIME,
    )
}

__all__ = ["RUNTIMES", "Runtime", "Session"]

"""OpenVINO's intermediate representation, or ONNX files, in OpenVINO, on the processor.

Floats are computed in float32: by default OpenVINO takes bfloat16 where the processor has it, which
would make its float baseline another computation than everyone else's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtimes.runtime import Runtime


class OpenVinoSession:
    """A compiled model with one request."""

    def __init__(self, compiled: Any) -> None:
        """Of OpenVINO's own."""
        self._request = compiled.create_infer_request()
        self._names = {output: output.get_any_name() for output in compiled.outputs}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        found = self._request.infer(dict(inputs), share_inputs=True)
        return {name: np.array(found[output]) for output, name in self._names.items()}


def load(path: Path, threads: int) -> OpenVinoSession:
    """An .xml file with its .bin beside it, or an .onnx file."""
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    return OpenVinoSession(core.compile_model(core.read_model(str(path)), "CPU", options))


RUNTIME = Runtime("openvino", "openvino", load)

"""ONNX files in ONNX Runtime, on the processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtimes.runtime import Runtime

ERRORS_ONLY = 3


class OnnxSession:
    """A loaded model."""

    def __init__(self, session: Any) -> None:
        """Of onnxruntime's own."""
        self._session = session
        self._names = [each.name for each in session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        outputs = self._session.run(self._names, dict(inputs))
        return dict(zip(self._names, outputs, strict=True))


def load(path: Path, threads: int) -> OnnxSession:
    """An .onnx file, after all of ONNX Runtime's own optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    # By default products with weights in blocks round their float activations to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return OnnxSession(session)


RUNTIME = Runtime("onnxruntime", "onnxruntime", load)

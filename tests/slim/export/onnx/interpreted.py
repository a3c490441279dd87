"""What ONNX Runtime makes of a file, and what JAX makes of the program in it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slim.export.openvino import library


def interpreted(
    model: bytes, *inputs: np.ndarray, optimized: Path | None = None
) -> dict[str, np.ndarray]:
    """The outputs by name; the optimized model is written to a file if one is given."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    # Products of floats by integer weights are then of the floats, not of rounded ones.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = {each.name: x for each, x in zip(session.get_inputs(), inputs, strict=True)}
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def openvino_or_skip() -> Any:
    """The package, as `slim.export.openvino` imports it, or the test is skipped."""
    if find_spec("openvino") is None or find_spec("onnx") is None:
        pytest.skip("openvino or onnx is not installed")
    return library()


def in_openvino(files: dict[str, bytes], *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of an IR's files by name."""
    core = openvino_or_skip().Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.read_model(files["model.xml"], files["model.bin"])
    compiled = core.compile_model(model, "CPU", hints)
    found = compiled([np.asarray(x) for x in inputs])
    return {output.get_any_name(): found[output] for output in compiled.outputs}

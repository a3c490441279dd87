"""TFLite files in LiteRT's interpreter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runtimes.runtime import Runtime

SIGNATURE = "serving_default"


class LiteRtSession:
    """An interpreter, whose inputs take the sizes of what comes."""

    def __init__(self, interpreter: Any) -> None:
        """Of LiteRT's own; its file has one signature."""
        self._interpreter = interpreter
        runner = interpreter.get_signature_runner(SIGNATURE)
        self._inputs = {name: each["index"] for name, each in runner.get_input_details().items()}
        self._outputs = {name: each["index"] for name, each in runner.get_output_details().items()}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self._interpreter.resize_tensor_input(self._inputs[name], shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._inputs[name], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(at) for name, at in self._outputs.items()}


def load(path: Path, threads: int) -> LiteRtSession:
    """A .tflite file, with the delegate for floats that the package has (XNNPACK)."""
    from ai_edge_litert.interpreter import Interpreter

    return LiteRtSession(Interpreter(model_path=str(path), num_threads=threads))


RUNTIME = Runtime("litert", "ai_edge_litert", load)

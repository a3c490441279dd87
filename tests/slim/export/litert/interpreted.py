"""What LiteRT's interpreter makes of a file."""

import numpy as np
import pytest


def interpreted(model: bytes, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs by name; the file's inputs take the sizes of these."""
    package = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = package.Interpreter(model_content=model, num_threads=1)
    places = [each["index"] for each in interpreter.get_input_details()]
    for place, x in zip(places, inputs, strict=True):
        interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    for place, x in zip(places, inputs, strict=True):
        interpreter.set_tensor(place, x)
    interpreter.invoke()
    made = interpreter.get_signature_runner("serving_default").get_output_details()
    return {name: interpreter.get_tensor(each["index"]) for name, each in made.items()}

"""What runs the artefacts of each target, and what must be installed to write them."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

from slim.export import TARGETS


class Place(NamedTuple):
    """Where artefacts of a target go.

    Attributes:
        runtime: a name of `experiments.runtimes.RUNTIMES`; None where nothing on Linux runs them.
        packages: that writing and running them import.
        integers: whether they hold what JAX computes of integers, as it computes it; those of
            others hold floats with marks, of which the target makes integers.
        between: whether its runtime has integers for what stands between contractions as well, if
            that is marked; see `slim.export.passes.full_integer`.
    """

    runtime: str | None
    packages: tuple[str, ...]
    integers: bool = False
    between: bool = False


ONNX = ("onnx", "onnxruntime")
PLACES: Mapping[str, Place] = {
    "stablehlo": Place("jax", (), integers=True),
    "onnx": Place("onnxruntime", ONNX, between=True),
    "tensorrt": Place("onnxruntime", ONNX),
    "openvino": Place("openvino", ("onnx", "openvino"), between=True),
    "litert": Place("litert", ("ai_edge_litert",), between=True),
    "litert_float16": Place("litert", ("ai_edge_litert",)),
    "litert_dynamic": Place("litert", ("ai_edge_litert",)),
    "coreml": Place(None, ("coremltools", "stablehlo_coreml")),
}
"""By target. TensorRT's own engines are built on the machine that has it: ONNX Runtime computes the
file that they are built from."""


def missing(target: str) -> tuple[str, ...]:
    """The packages that a target needs, and that are not installed."""
    return tuple(name for name in PLACES[target].packages if find_spec(name) is None)


def installed() -> tuple[str, ...]:
    """The targets that can be written here, and run if anything on Linux runs them."""
    return tuple(name for name in TARGETS if name in PLACES and not missing(name))

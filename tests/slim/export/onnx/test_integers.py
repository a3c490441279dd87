"""Programs with fake_quant run on integers, within one step of the last scale of JAX."""

from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.export import onnx, openvino, passes, tensorrt
from slim.export.fake_quant import fake_quant
from slim.export.onnx.file import library
from slim.export.program import Program, Unsupported, program
from tests.slim.export.evaluated import evaluated
from tests.slim.export.litert.test_integers import (
    BIAS,
    DENSE,
    IMAGES,
    ROWS,
    residual,
    signed,
    traced,
    unsigned,
    weight,
)
from tests.slim.export.onnx.interpreted import in_openvino, interpreted, openvino_or_skip

pytest.importorskip("onnx")


def within(found: dict[str, np.ndarray], made: Program, *inputs: np.ndarray) -> float:
    (one,), (other,) = (each.values() for each in (found, evaluated(made, *inputs)))
    return float(np.abs(one - other).max())


def run(model: bytes, path: Path) -> Counter[str]:
    """The operators that ONNX Runtime runs, which were written to `path`."""
    return Counter(node.op_type for node in library().load(path).graph.node)


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("batch", ["batch", 2])
def test_a_residual_network_runs_on_integers(tmp_path: Path, format: str, batch: str | int) -> None:
    made = traced(lambda x: residual(x, format), IMAGES, batch=batch)
    model, path = onnx.write(made), tmp_path / "optimized.onnx"
    assert within(interpreted(model, IMAGES, optimized=path), made, IMAGES) < 0.02 * 1.001
    ran = run(model, path)
    assert ran["QLinearConv"] == 3
    assert ran["QLinearAdd"] == 1
    assert ran["QLinearGlobalAveragePool"] == 1
    assert ran["QLinearMatMul"] == 1
    assert not {"Conv", "MatMul", "Add", "Relu", "FusedConv"} & set(ran)


def test_a_residual_network_runs_on_integers_in_openvino() -> None:
    openvino_or_skip()
    made = traced(residual, IMAGES)
    files = openvino.write(made)
    assert within(in_openvino(files, IMAGES), made, IMAGES) < 0.02 * 2.001
    assert b'element_type="i8"' in files["model.xml"]


@settings(max_examples=20)
@given(
    scales=st.tuples(*[st.floats(0.0078125, 0.125, width=32)] * 2),
    zeros=st.tuples(*[st.integers(0, 255)] * 2),
    relu=st.booleans(),
    bias=st.booleans(),
)
def test_a_product_of_any_grids_is_within_a_step(
    scales: tuple[float, float], zeros: tuple[int, int], relu: bool, bias: bool
) -> None:
    def dense(x: jax.Array) -> jax.Array:
        y = unsigned(x, scales[0], zeros[0]) @ weight(DENSE)
        y = y + BIAS[:5] if bias else y
        return unsigned(jax.nn.relu(y) if relu else y, scales[1], zeros[1])

    made = traced(dense, ROWS)
    assert within(interpreted(onnx.write(made), ROWS), made, ROWS) < scales[1] * 1.001


def test_weights_of_four_bits_alone_are_products_of_blocks(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    kernel = draw.normal(size=(64, 32)).astype(np.float32)
    x = draw.normal(size=(2, 64)).astype(np.float32)
    scale = np.abs(kernel.reshape(2, 32, 32)).max(1) / np.float32(7)
    made = traced(lambda x: x @ fake_quant(jax.numpy.asarray(kernel), scale, None, "int4"), x)
    model, path = onnx.write(made), tmp_path / "optimized.onnx"
    assert within(interpreted(model, x, optimized=path), made, x) < 1e-4
    assert run(model, path)["MatMulNBits"] == 1
    assert len(model) < kernel.nbytes / 4


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_weights_alone_are_stored_as_integers(format: str) -> None:
    made = traced(lambda x: x @ weight(DENSE, format), ROWS)
    model = onnx.write(made)
    assert within(interpreted(model, ROWS), made, ROWS) < 1e-5
    (stored,) = (i for i in library().load_from_string(model).graph.initializer if len(i.dims) == 2)
    assert stored.data_type == getattr(library().TensorProto, format.upper())


def test_activations_of_four_bits_are_computed_in_floats() -> None:
    made = traced(lambda x: signed(x, 0.3, "int4") @ weight(DENSE), ROWS)
    assert within(interpreted(onnx.write(made), ROWS), made, ROWS) < 1e-5


def dense(x: jax.Array) -> jax.Array:
    return signed(signed(x, 0.03) @ weight(DENSE) + BIAS[:5], 0.05)


def test_tensorrt_has_signed_integers_around_zero_and_a_float_bias() -> None:
    files = tensorrt.write(traced(dense, ROWS), metadata={"recipe": "r"})
    made = traced(dense, ROWS)
    assert within(interpreted(files["model.onnx"], ROWS), made, ROWS) < 0.05 * 1.001
    graph = library().load_from_string(files["model.onnx"]).graph
    types = {library().TensorProto.DataType.Name(each.data_type) for each in graph.initializer}
    assert types == {"INT8", "FLOAT"}
    script = files["build.sh"].decode()
    assert "--int8" in script
    assert '--optShapes="input_0:${usual}x6"' in script


@pytest.mark.parametrize(
    ("write", "fn", "words"),
    [
        (onnx.write, lambda x: signed(x, 0.1, "float8_e4m3"), "integers of up to 8 bits"),
        (
            onnx.write,
            lambda x: fake_quant(x, np.full((1, 6), 0.1, np.float32), None, "int8"),
            "several scales",
        ),
        (tensorrt.write, lambda x: unsigned(x, 0.1, 3), "symmetric int8"),
    ],
)
def test_a_quantization_without_a_kernel_is_refused(write, fn, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        write(passes.standard(program(lambda _, x: fn(x), {}, ROWS)))

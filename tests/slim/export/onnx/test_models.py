"""Whole models in ONNX Runtime and OpenVINO; what a file says of itself; who is refused."""

import sys
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.export import onnx, openvino, passes
from slim.export.onnx.file import library
from slim.export.program import Program, Unsupported, program
from slim.models.bert import Bert, BertConfig
from slim.models.mobilenet_v2 import MobileNetV2
from slim.models.resnet import CifarResNet, ImageNetResNet
from slim.models.vit import ViT
from tests.slim.export.evaluated import evaluated
from tests.slim.export.onnx.interpreted import in_openvino, interpreted, openvino_or_skip

pytest.importorskip("onnx")

rng = np.random.default_rng(2)
IMAGES = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
IDS = rng.integers(0, 200, (2, 12)).astype(np.int32)
MASK = np.array([[1] * 12, [1] * 8 + [0] * 4], np.int32)
MODELS = {
    "resnet20": (CifarResNet(20, 10, width=4), (IMAGES,)),
    "resnet18": (ImageNetResNet((2, 2, 2, 2), False, 10, width=4), (IMAGES,)),
    "mobilenet_v2": (MobileNetV2(10, width_multiplier=0.25), (IMAGES,)),
    "vit": (ViT(width=32, depth=2, heads=2, num_classes=10, patch_size=4), (IMAGES,)),
    "bert": (
        Bert(BertConfig(width=32, depth=2, heads=2, hidden=64, vocabulary=200, positions=16)),
        (IDS, MASK),
    ),
}


def drawn(shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """Near one where it must be positive; of kernels, of either sign and not too large."""
    draw = np.random.default_rng(shape.size)
    if len(shape.shape) == 1:
        return draw.uniform(0.5, 1.5, shape.shape).astype(np.float32)
    return (draw.normal(size=shape.shape) * (shape.shape[-1] / shape.size) ** 0.5).astype(
        np.float32
    )


def exported(name: str, batch: str | int = "batch") -> Program:
    model, inputs = MODELS[name]
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False))
    traced = program(
        lambda variables, *x: model.apply(variables, *x, train=False),
        jax.tree.map(drawn, shapes),
        *inputs,
        input_names=("input", "mask")[: len(inputs)],
        batch=batch,
    )
    return passes.standard(traced)


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in library().load_from_string(model).graph.node)


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_equals_jax(name: str, batch: str | int) -> None:
    traced, (_, inputs) = exported(name, batch), MODELS[name]
    model = onnx.write(traced)
    chex.assert_trees_all_close(
        interpreted(model, *inputs), evaluated(traced, *inputs), rtol=1e-5, atol=1e-5
    )
    if name in ("resnet20", "resnet18", "mobilenet_v2"):
        assert operators(model)["Transpose"] == 1


@pytest.mark.parametrize("name", ["resnet20", "bert"])
def test_a_model_equals_jax_in_openvino(name: str) -> None:
    openvino_or_skip()
    traced, (_, inputs) = exported(name), MODELS[name]
    found = in_openvino(openvino.write(traced, metadata={"recipe": "r"}), *inputs)
    chex.assert_trees_all_close(found, evaluated(traced, *inputs), rtol=1e-4, atol=1e-4)


def test_norms_are_inside_the_convolutions() -> None:
    found = operators(onnx.write(exported("resnet18")))
    assert not {"Mul", "Sub", "Div", "Sqrt", "Reciprocal"} & set(found)
    assert found["Add"] == 8 + 1, "a sum for each block, and the head's bias"


def test_the_file_has_names_metadata_and_a_symbolic_batch() -> None:
    traced = passes.standard(
        program(
            lambda table, x, y: (x @ table["dense"]["kernel"], jnp.tanh(y)),
            {"dense": {"kernel": np.ones((3, 4), np.float32)}},
            np.zeros((2, 3), np.float32),
            np.zeros((2, 1), np.float32),
            input_names=("left", "right"),
            output_names=("product", "angle"),
        )
    )
    written = {"recipe": "config: größer", "hash": "abc"}
    model = onnx.write(traced, metadata=written)
    found = interpreted(model, np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))
    assert {name: each.shape for name, each in found.items()} == {
        "product": (2, 4),
        "angle": (2, 1),
    }
    proto = library().load_from_string(model)
    assert {each.key: each.value for each in proto.metadata_props} == written
    assert [each.name for each in proto.graph.initializer] == ["dense/kernel"]
    (first, _) = proto.graph.input[0].type.tensor_type.shape.dim
    assert first.dim_param == "batch"
    assert [opset.version for opset in proto.opset_import] == [20]


def test_what_goes_in_may_come_out_and_constants_too() -> None:
    made = program(
        lambda _, x: (x, x, jnp.ones(3)),
        {},
        np.ones((2, 3), np.float32),
        output_names=("one", "other", "ones"),
    )
    x = rng.normal(size=(4, 3)).astype(np.float32)
    found = interpreted(onnx.write(passes.standard(made)), x)
    chex.assert_trees_all_equal(found, {"one": x, "other": x, "ones": np.ones(3, np.float32)})


def one_step(fn: object) -> Program:
    return program(lambda _, x: fn(x), {}, np.zeros((2, 3), np.float32))


def test_an_unsupported_primitive_is_named_with_the_line_of_user_code() -> None:
    with pytest.raises(Unsupported, match=r"'onnx'.*lgamma.*test_models\.py"):
        onnx.write(one_step(jax.lax.lgamma))


def test_a_parameter_that_is_not_finite_is_refused_by_name() -> None:
    variables = {"dense": {"kernel": np.full((3, 2), np.nan, np.float32)}}
    traced = program(lambda v, x: x @ v["dense"]["kernel"], variables, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="dense/kernel"):
        onnx.write(traced)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[onnx\]'"):
        onnx.write(one_step(jnp.tanh))

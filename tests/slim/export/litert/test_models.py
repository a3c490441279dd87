"""Whole models in the interpreter; and what a file says of itself."""

import sys
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.export import litert, passes
from slim.export.program import Program, Unsupported, program
from slim.models.bert import Bert, BertConfig
from slim.models.mobilenet_v2 import MobileNetV2
from slim.models.resnet import CifarResNet
from slim.models.vit import ViT
from tests.slim.export.evaluated import evaluated
from tests.slim.export.litert.interpreted import interpreted

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

rng = np.random.default_rng(2)
IMAGES = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
IDS = rng.integers(0, 200, (2, 12)).astype(np.int32)
MASK = np.array([[1] * 12, [1] * 8 + [0] * 4], np.int32)
MODELS = {
    "resnet20": (CifarResNet(20, 10, width=4), (IMAGES,)),
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


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_any_batch_equals_jax(name: str) -> None:
    traced, (_, inputs) = exported(name), MODELS[name]
    chex.assert_trees_all_close(
        interpreted(litert.write(traced), *inputs), evaluated(traced, *inputs), rtol=1e-5, atol=1e-5
    )


def test_the_batch_of_a_file_may_be_fixed() -> None:
    traced, inputs = exported("vit", batch=2), MODELS["vit"][1]
    model = litert.write(traced)
    chex.assert_trees_all_close(
        interpreted(model, *inputs), evaluated(traced, *inputs), rtol=1e-5, atol=1e-5
    )
    graph = schema.ModelT.InitFromPackedBuf(model).subgraphs[0]
    assert list(graph.tensors[graph.inputs[0]].shape) == [2, 16, 16, 3]
    assert graph.tensors[graph.inputs[0]].shapeSignature is None


@pytest.mark.parametrize(
    ("write", "stored", "error", "smaller"),
    [
        (litert.write_float16, "FLOAT16", 0.002, 0.6),
        (litert.write_dynamic_range, "INT8", 0.03, 0.4),
    ],
    ids=["float16", "dynamic_range"],
)
@pytest.mark.parametrize("name", ["vit", "bert"])
def test_weights_in_fewer_bits(
    name: str, write: Callable[[Program], bytes], stored: str, error: float, smaller: float
) -> None:
    traced, inputs = exported(name), MODELS[name][1]
    model = write(traced)
    (found,), (expected,) = (
        each.values() for each in (interpreted(model, *inputs), evaluated(traced, *inputs))
    )
    assert np.abs(found - expected).max() < error * np.abs(expected).max()
    assert stored in litert.tensor_types(model).values()

    def weights(model: bytes) -> int:
        buffers = schema.ModelT.InitFromPackedBuf(model).buffers
        return sum(len(each.data) for each in buffers if each.data is not None)

    assert weights(model) < smaller * weights(litert.write(traced))


def test_the_file_has_names_metadata_and_aligned_buffers() -> None:
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
    model = litert.write(traced, metadata=written)
    assert litert.read_metadata(model) == written
    found = interpreted(model, np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))
    assert {name: each.shape for name, each in found.items()} == {
        "product": (2, 4),
        "angle": (2, 1),
    }
    assert "dense/kernel" in litert.tensor_types(model)
    file = schema.Model.GetRootAs(model)
    for place in range(file.BuffersLength()):
        if file.Buffers(place).DataLength():
            table = file.Buffers(place)._tab
            assert table.Vector(table.Offset(4)) % 16 == 0


def one_step(fn: Callable[[jax.Array], jax.Array]) -> Program:
    return program(lambda _, x: fn(x), {}, np.zeros((2, 3), np.float32))


def test_an_unsupported_primitive_is_named_with_the_line_of_user_code() -> None:
    with pytest.raises(Unsupported, match=r"'litert'.*'?lgamma.*test_models\.py"):
        litert.write(one_step(jax.lax.lgamma))


def test_a_parameter_that_is_not_finite_is_refused_by_name() -> None:
    variables = {"dense": {"kernel": np.full((3, 2), np.nan, np.float32)}}
    traced = program(lambda v, x: x @ v["dense"]["kernel"], variables, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="dense/kernel"):
        litert.write(traced)


def test_a_number_beyond_float16_is_refused_by_name() -> None:
    variables = {"dense": {"kernel": np.full((3, 512), 1e6, np.float32)}}
    traced = program(lambda v, x: x @ v["dense"]["kernel"], variables, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"dense/kernel.*65504.*float32"):
        litert.write_float16(traced)


def test_without_the_interpreters_package_its_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[litert\]'"):
        litert.write(one_step(jnp.tanh))

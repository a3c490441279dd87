"""Core ML packages: what is written and read back; nothing but a Mac runs them.

The numbers are checked one stage before: Core ML's own terms (MIL) compute what follows of
constants as they are built, so a program whose input is a constant is computed as a whole.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from slim.export import coreml, passes
from slim.export.fake_quant import fake_quant
from slim.export.program import Program, Unsupported, program

ct = pytest.importorskip("coremltools")
pytest.importorskip("stablehlo_coreml")

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(2, 6)).astype(np.float32)
IMAGES = rng.normal(size=(1, 8, 8, 3)).astype(np.float32)
DENSE = rng.normal(size=(6, 5)).astype(np.float32)
POOLED = rng.normal(size=(48, 2)).astype(np.float32)
STEM = rng.normal(size=(3, 3, 3, 8)).astype(np.float32)


def traced(
    fn: Callable[..., Any], *inputs: np.ndarray, batch: str | int | None = None, **names: Any
) -> Program:
    batch = batch or len(inputs[0])
    made = program(lambda v, *x: fn(*x), {}, *inputs, batch=batch, **names)
    return passes.standard(made)


def signed(x: jax.Array, scale: float) -> jax.Array:
    return fake_quant(x, np.full((1,) * x.ndim, scale, np.float32), None, "int8")


def unsigned(x: jax.Array, scale: float, zero: int) -> jax.Array:
    ones = (1,) * x.ndim
    return fake_quant(x, np.full(ones, scale, np.float32), np.full(ones, zero, np.int32), "uint8")


def weight(kernel: np.ndarray, format: str = "int8") -> jax.Array:
    size = np.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True)
    steps = {"int8": 127, "int4": 7}[format]
    return fake_quant(jnp.asarray(kernel), size / np.float32(steps), None, format)


def read(files: dict[str, bytes], folder: Path) -> Any:
    """The specification, of a package written as a user would."""
    for name, data in files.items():
        path = folder / "model.mlpackage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return ct.utils.load_spec(str(folder / "model.mlpackage"))


def operators(specification: Any) -> Counter[str]:
    (function,) = specification.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return Counter(op.type for op in block.operations)


def test_the_package_has_the_programs_names_types_and_metadata(tmp_path: Path) -> None:
    made = traced(
        lambda x, n: (jax.nn.softmax(x @ DENSE), jnp.tanh(x) * n),
        ROWS,
        ROWS,
        input_names=("input", "other"),
        output_names=("probabilities", "angles"),
    )
    specification = read(coreml.write(made, metadata={"recipe": "größer"}), tmp_path)
    described = specification.description
    assert {each.name: list(each.type.multiArrayType.shape) for each in described.input} == {
        "input": [2, 6],
        "other": [2, 6],
    }
    assert {each.name: list(each.type.multiArrayType.shape) for each in described.output} == {
        "probabilities": [2, 5],
        "angles": [2, 6],
    }
    assert described.metadata.userDefined["recipe"] == "größer"
    assert operators(specification)["softmax"] == 1


@pytest.mark.parametrize(("write", "size"), [(coreml.write, 2), (coreml.write_float32, 4)])
def test_precision_is_that_of_the_weights(
    write: Callable[..., dict[str, bytes]], size: int
) -> None:
    kernel = rng.normal(size=(6, 300)).astype(np.float32)
    files = write(traced(lambda x: x @ kernel, ROWS))
    (weights,) = (data for name, data in files.items() if name.endswith("weight.bin"))
    assert size * kernel.size <= len(weights) < size * kernel.size + 500


NUMBERS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "dense": lambda x: jax.nn.relu(x @ DENSE) + 1.0,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "layer_norm": lambda x: jax.nn.standardize(x, epsilon=1e-5),
    "shapes": lambda x: jnp.concatenate([x[:, ::2].T, x.reshape(3, 4)], 1).mean(0),
    "softmax": jax.nn.softmax,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_mil_computes_of_a_constant_equals_jax(name: str) -> None:
    made = traced(lambda _, x: NUMBERS[name](x), ROWS, ROWS, input_names=("unused", "x"))
    constants = {**made.constants, made.inputs[1][1]: ROWS}
    fixed = replace(made, constants=constants, inputs=made.inputs[:1])
    (result,) = coreml.mil(fixed).functions["main"].outputs
    chex.assert_trees_all_close(result.val, np.asarray(fixed(ROWS)[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("kernel", [STEM, DENSE, DENSE.reshape(6, 5, 1)], ids=np.ndim)
def test_integers_and_scales_of_a_weight_give_its_numbers(kernel: np.ndarray, format: str) -> None:
    made = traced(lambda x: x.sum() + weight(kernel, format), ROWS)
    (operation,) = (
        coreml.mil(made).functions["main"].find_ops(op_type="constexpr_blockwise_shift_scale")
    )
    expected = np.asarray(weight(kernel, format))
    chex.assert_trees_all_close(operation.materialized_val_inference(), expected, rtol=1e-6)


def test_a_quantized_network_has_integer_weights_and_marked_activations(tmp_path: Path) -> None:
    def network(x: jax.Array) -> jax.Array:
        x = lax.conv_general_dilated(
            signed(x, 0.03),
            weight(STEM),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = unsigned(jax.nn.relu(x + DENSE[0, 0]), 0.05, 0).mean((1, 2))
        return unsigned(x, 0.02, 3) @ weight(np.tile(DENSE[:2], (4, 1)), "int4")

    made = traced(network, IMAGES)
    specification = read(coreml.write(made), tmp_path)
    used = operators(specification)
    assert used["constexpr_blockwise_shift_scale"] == 2
    assert used["quantize"] == used["dequantize"] == 3
    assert used["conv"] == used["matmul"] + used["linear"] == 1
    (function,) = specification.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    weights = [op for op in block.operations if op.type == "constexpr_blockwise_shift_scale"]
    readers = {
        name
        for op in block.operations
        for name, argument in op.inputs.items()
        if any(each.name == made.outputs[0].name for each in argument.arguments for made in weights)
    }
    assert readers == {"weight", "y"} or readers == {"weight"}, "a weight is moved as it runs"


def test_a_symbolic_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'input' has shape \(batch, 6\).*batch=1"):
        coreml.write(traced(jnp.tanh, ROWS, batch="batch"))


def test_an_unsupported_primitive_is_named_with_the_line_of_user_code() -> None:
    with pytest.raises(Unsupported, match=r"'coreml'.*population_count.*test_coreml\.py"):
        coreml.write(traced(lambda n: lax.population_count(n) + n, np.ones((2, 3), np.int32)))


def test_a_parameter_that_is_not_finite_is_refused_by_name() -> None:
    variables = {"dense": {"kernel": np.full((6, 2), np.inf, np.float32)}}
    made = program(lambda v, x: x @ v["dense"]["kernel"], variables, ROWS, batch=2)
    with pytest.raises(ValueError, match="dense/kernel"):
        coreml.write(made)


def test_without_coremltools_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[coreml\]'"):
        coreml.write(traced(jnp.tanh, ROWS))


def test_pools_over_padding_are_written(tmp_path: Path) -> None:
    """With the dilations of one that JAX gives them."""

    def fn(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))).reshape(1, -1) @ POOLED

    found = operators(read(coreml.write(traced(fn, IMAGES)), tmp_path))
    assert found["max_pool"] == 1

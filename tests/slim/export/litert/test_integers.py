"""Programs with fake_quant run on integers, within one step of the last scale of JAX."""

from collections import Counter
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from slim.export import litert, passes
from slim.export.fake_quant import fake_quant
from slim.export.program import Program, Unsupported, program
from tests.slim.export.evaluated import evaluated
from tests.slim.export.litert.interpreted import interpreted

pytest.importorskip("ai_edge_litert")

rng = np.random.default_rng(1)
IMAGES = rng.uniform(-3, 3, (2, 8, 8, 3)).astype(np.float32)
ROWS = rng.uniform(-3, 3, (4, 6)).astype(np.float32)
STEM = (rng.normal(size=(3, 3, 3, 8)) / 4).astype(np.float32)
MIDDLE = (rng.normal(size=(3, 3, 8, 8)) / 6).astype(np.float32)
DEPTHWISE = (rng.normal(size=(3, 3, 1, 8)) / 3).astype(np.float32)
HEAD = (rng.normal(size=(8, 5)) / 2).astype(np.float32)
DENSE = (rng.normal(size=(6, 5)) / 2).astype(np.float32)
BIAS = rng.normal(size=8).astype(np.float32)


def signed(x: jax.Array, scale: float, format: str = "int8") -> jax.Array:
    return fake_quant(x, np.full((1,) * x.ndim, scale, np.float32), None, format)


def unsigned(x: jax.Array, scale: float, zero: int = 0) -> jax.Array:
    ones = (1,) * x.ndim
    return fake_quant(x, np.full(ones, scale, np.float32), np.full(ones, zero, np.int32), "uint8")


def weight(kernel: np.ndarray, format: str = "int8") -> jax.Array:
    """One scale for each output, the last dimension."""
    size = np.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True)
    steps = {"int8": 127, "int4": 7}[format]
    return fake_quant(jnp.asarray(kernel), size / np.float32(steps), None, format)


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def residual(x: jax.Array, format: str = "int8") -> jax.Array:
    x = signed(x, 0.03)
    x = unsigned(jax.nn.relu(conv(x, weight(STEM, format)) + BIAS), 0.02)
    y = signed(conv(x, weight(MIDDLE, format)), 0.03)
    x = unsigned(jax.nn.relu(x + y), 0.025)
    x = unsigned(jax.nn.relu(conv(x, weight(MIDDLE, format), 2)), 0.03)
    x = unsigned(x.mean((1, 2)), 0.02)
    return signed(x @ weight(HEAD, format), 0.02)


def traced(
    fn: Callable[..., jax.Array], *inputs: np.ndarray, batch: str | int = "batch"
) -> Program:
    names = tuple(f"input_{i}" for i in range(len(inputs)))
    return passes.standard(
        program(lambda _, *x: fn(*x), {}, *inputs, input_names=names, batch=batch)
    )


def steps_apart(made: Program, *inputs: np.ndarray, scale: float) -> float:
    (found,) = interpreted(litert.write(made), *inputs).values()
    (expected,) = evaluated(made, *inputs).values()
    return float(np.abs(found - expected).max()) / scale


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_residual_network_runs_on_integers_from_end_to_end(format: str, batch: str | int) -> None:
    made = traced(lambda x: residual(x, format), IMAGES, batch=batch)
    # In four bits two of ten logits are one step apart and one is two: seen, not traced to a layer.
    assert steps_apart(made, IMAGES, scale=0.02) < {"int8": 1.001, "int4": 2.001}[format]
    model = litert.write(made)
    types = Counter(litert.tensor_types(model).values())
    assert types["FLOAT32"] == 2, "more floats than the input and the output"
    assert types["INT4" if format == "int4" else "INT8"] >= 4
    assert Counter(litert.operators(model)) == Counter(
        QUANTIZE=1, CONV_2D=3, ADD=1, PAD=1, MEAN=1, FULLY_CONNECTED=1, DEQUANTIZE=1
    )


BETWEEN: dict[str, tuple[Callable[[jax.Array], jax.Array], str]] = {
    "concatenate": (lambda x: jnp.concatenate([x, x], -1), "CONCATENATION"),
    "depthwise": (lambda x: conv(x, weight(DEPTHWISE), groups=8), "DEPTHWISE_CONV_2D"),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), "GELU"),
    "max_pool": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        "MAX_POOL_2D",
    ),
    "multiply": (lambda x: x * x, "MUL"),
    "relu6": (jax.nn.relu6, "RELU6"),
    "slice": (lambda x: x[:, ::2, 1:], "STRIDED_SLICE"),
    "transpose": (lambda x: x.transpose(0, 3, 1, 2), "TRANSPOSE"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_contractions_is_on_integers_as_well(name: str) -> None:
    fn, operator = BETWEEN[name]
    made = traced(lambda x: signed(fn(signed(conv(x, weight(STEM)), 0.03)), 0.03), IMAGES)
    # The convolution itself is on floats, as its input is not marked.
    assert steps_apart(made, IMAGES, scale=0.03) < 1.001
    model = litert.write(made)
    place = litert.operators(model).index(operator)
    assert place > litert.operators(model).index("QUANTIZE")
    assert litert.operators(model).index("DEQUANTIZE") != place - 1


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
    assert steps_apart(made, ROWS, scale=scales[1]) < 1.001
    assert litert.operators(litert.write(made)) == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_batch_norm_is_inside_the_convolution(is_marked: bool) -> None:
    factors = BIAS / 2 + np.float32(0.3)
    assert (factors < 0).any(), "a sign that integers must take"

    def normed(x: jax.Array) -> jax.Array:
        y = conv(signed(x, 0.03), weight(STEM)) if is_marked else conv(x, jnp.asarray(STEM))
        y = jax.nn.relu((y - BIAS) * factors + BIAS[::-1])
        return unsigned(y, 0.02) if is_marked else y

    made = traced(normed, IMAGES)
    (found,) = interpreted(litert.write(made), IMAGES).values()
    (expected,) = evaluated(made, IMAGES).values()
    assert np.abs(found - expected).max() < (0.02001 if is_marked else 1e-5)
    quantized = ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    assert litert.operators(litert.write(made)) == (quantized if is_marked else ["CONV_2D"])


def test_attention_may_stay_in_floats_between_integers() -> None:
    square = (rng.normal(size=(6, 6)) / 2).astype(np.float32)

    def attend(x: jax.Array) -> jax.Array:
        x = signed(x, 0.03)
        query, key, value = (signed(x @ weight(square * k), 0.05) for k in (1.0, 0.7, -1.0))
        mixed = jax.nn.softmax(query @ key.transpose(0, 2, 1)) @ value
        return signed(signed(mixed, 0.05) @ weight(square), 0.04)

    x = rng.uniform(-3, 3, (2, 4, 6)).astype(np.float32)
    made = traced(attend, x)
    assert steps_apart(made, x, scale=0.04) < 1.001
    used = Counter(litert.operators(litert.write(made)))
    assert used["FULLY_CONNECTED"] == 4
    assert used["BATCH_MATMUL"] == 2


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_weights_alone_are_stored_as_integers_and_computed_as_floats(format: str) -> None:
    made = traced(lambda x: x @ weight(DENSE, format), ROWS)
    model = litert.write(made)
    chex.assert_trees_all_close(
        interpreted(model, ROWS), evaluated(made, ROWS), rtol=1e-5, atol=1e-5
    )
    assert format.upper() in litert.tensor_types(model).values()


def test_activations_of_four_bits_are_computed_in_floats() -> None:
    made = traced(lambda x: signed(x, 0.3, "int4") @ weight(DENSE), ROWS)
    chex.assert_trees_all_close(
        interpreted(litert.write(made), ROWS), evaluated(made, ROWS), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x: signed(x, 0.1, "float8_e4m3"), "integers only"),
        (lambda x: fake_quant(x, np.full((1, 6), 0.1, np.float32), None, "int8"), "several scales"),
    ],
)
def test_a_quantization_without_a_kernel_is_refused(
    fn: Callable[[jax.Array], jax.Array], words: str
) -> None:
    with pytest.raises(Unsupported, match=words):
        litert.write(traced(fn, ROWS))

"""Every spelling of every pattern is found and computes the same; what only looks so is not."""

import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.export import litert, onnx, openvino, passes
from slim.export.any_batch import any_batch
from slim.export.fake_quant import fake_quant
from slim.export.patterns import PATTERNS
from slim.export.program import Program, program
from slim.models.bert import Bert, BertConfig
from tests.slim.export.evaluated import evaluated
from tests.slim.export.litert import interpreted as lite
from tests.slim.export.onnx import interpreted as ort

rng = np.random.default_rng(3)
X = rng.normal(size=(2, 5, 6)).astype(np.float32)
ROWS = rng.uniform(0.5, 1.5, (2, 6)).astype(np.float32)
SPELLINGS = [(name, i) for name, each in PATTERNS.items() for i in range(len(each.spellings))]
BATCHES: tuple[str | int, ...] = ("batch", 2)


def params_of(fn: Callable[..., Any], axis: int) -> dict[str, Any]:
    """Of a spelling or a pattern's own function."""
    chosen = {"axis": axis, "axes": (axis,), "keepdims": True, "epsilon": 1e-3}
    found = inspect.signature(fn).parameters.values()
    names = [each.name for each in found if each.kind is each.KEYWORD_ONLY]
    return {name: chosen[name] for name in names if name in chosen}


def operands_of(fn: Callable[..., Any], size: int) -> list[np.ndarray]:
    names = inspect.signature(fn).parameters
    return [ROWS[i, :size] for i, name in enumerate(("scale", "bias")) if name in names]


def traced(fn: Callable[..., Any], *inputs: np.ndarray, batch: str | int = "batch") -> Program:
    names = tuple(f"input_{i}" for i in range(len(inputs)))
    count = len(jax.eval_shape(lambda *x: jax.tree.leaves(fn(*x)), *inputs))
    outputs = tuple(f"output_{i}" for i in range(count))
    made = program(
        lambda _, *x: fn(*x), {}, *inputs, input_names=names, output_names=outputs, batch=batch
    )
    return passes.standard(made)


def ops(made: Program) -> list[str]:
    return [node.op for node in made.nodes]


@pytest.mark.parametrize(("name", "place"), SPELLINGS)
def test_a_spelling_is_found_and_computes_the_same(name: str, place: int) -> None:
    spelling = PATTERNS[name].spellings[place]
    for axis, size in ((-1, 6), (1, 5)):
        params, rows = params_of(spelling, axis), operands_of(spelling, size)
        if "axis" in params:
            params["axis"] %= 3
        for batch in BATCHES:
            written = partial(spelling, **params)
            made = traced(lambda x, fn=written, rows=rows: fn(2 * x, *rows) + 1, X, batch=batch)
            found = passes.matched(made, PATTERNS)
            assert ops(found) == ["mul", name, "add"]
            node = found.nodes[1]
            assert len(node.ins) == 1 + len(rows)
            if "epsilon" in params:
                assert node.params["epsilon"] == pytest.approx(1e-3)
            chex.assert_trees_all_close(found(X), made(X), rtol=1e-5, atol=1e-5)
        if "axis" not in params and "axes" not in params:
            break


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm(),
        nn.LayerNorm(use_fast_variance=False),
        nn.LayerNorm(use_bias=False),
        nn.LayerNorm(use_bias=False, use_scale=False),
    ],
)
def test_norms_of_flax_are_found(norm: nn.LayerNorm) -> None:
    variables = norm.init(jax.random.key(0), X)
    for make in (
        lambda: traced(lambda x: norm.apply(variables, x), X),
        lambda: any_batch(lambda n: traced(lambda x: norm.apply(variables, x), X, batch=n)),
    ):
        found = passes.matched(make(), PATTERNS)
        assert ops(found) == ["layer_norm"]
        chex.assert_trees_all_close(found(X)[0], norm.apply(variables, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (lambda x: x.sum(-1) / 5, "mean"),
        (lambda x: x.sum(1) / 6, "mean"),
        (lambda x: jax.nn.softmax(x, (1, 2)), "softmax"),
        (lambda x: jnp.exp(x - x.max(-1, keepdims=True)) / jnp.exp(x).sum(-1, keepdims=True), 0),
        (lambda x: x * jax.nn.sigmoid(x + 1), "silu"),
        (lambda x: 0.5 * x * jax.lax.erfc(-x * 0.7), "gelu"),
        (lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(1, keepdims=True)), 0),
        (lambda x: jnp.clip(x, 0.0, 5.0), "relu6"),
    ],
)
def test_what_only_looks_like_a_pattern_is_none(fn: Callable[..., Any], name: str) -> None:
    found = passes.matched(traced(fn, X), PATTERNS)
    assert (name or "softmax") not in ops(found)
    assert "layer_norm" not in ops(found)
    chex.assert_trees_all_close(found(X)[0], fn(jnp.asarray(X)), rtol=1e-5, atol=1e-6)


def test_inner_values_that_others_read_stay() -> None:
    def fn(x: jax.Array) -> tuple[jax.Array, ...]:
        above = jnp.exp(x - jnp.max(x, -1, keepdims=True))
        whole = jnp.sum(above, -1, keepdims=True)
        return above / whole, jnp.sin(above), whole

    found = passes.matched(traced(fn, X), PATTERNS)
    assert Counter(ops(found))["softmax"] == 1
    assert {"exp", "reduce_max", "reduce_sum"} <= set(ops(found))
    chex.assert_trees_all_close(found(X), fn(jnp.asarray(X)), rtol=1e-6)


def test_a_mark_inside_is_not_lost() -> None:
    def rounded(x: jax.Array) -> jax.Array:
        return fake_quant(x, np.array([[[0.01]]], np.float32), None, "int8")

    def fn(x: jax.Array) -> jax.Array:
        above = jnp.exp(x - jnp.max(x, -1, keepdims=True))
        return above / jnp.sum(rounded(above), -1, keepdims=True)

    found = passes.matched(traced(fn, X), PATTERNS)
    assert "softmax" not in ops(found)
    around = passes.matched(traced(lambda x: rounded(jax.nn.softmax(rounded(x))), X), PATTERNS)
    assert ops(around) == ["fake_quant", "softmax", "fake_quant"]


def test_only_the_names_that_are_asked_for() -> None:
    made = traced(jax.nn.log_softmax, X)
    assert ops(passes.matched(made, {"softmax", "mean"})) == ops(made)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=3),
    data=st.data(),
    batch=st.sampled_from(["batch", 3]),
)
def test_any_shape_and_axes(shape: list[int], data: st.DataObject, batch: str | int) -> None:
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    rank = x.ndim
    axis = data.draw(st.integers(1, rank - 1))
    axes = tuple(data.draw(st.sets(st.integers(1, rank - 1), min_size=1)))
    keepdims = data.draw(st.booleans())

    def fn(x: jax.Array) -> tuple[jax.Array, ...]:
        centred = x - x.mean(axis, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis, keepdims=True) + 1e-3)
        return jax.nn.softmax(x, axis), jnp.mean(jnp.sin(x), axes, keepdims=keepdims), normed

    made = traced(fn, x, batch=batch)
    found = passes.matched(made, PATTERNS)
    assert Counter(ops(found)) >= Counter({"softmax": 1, "layer_norm": 1, "mean": 1})
    chex.assert_trees_all_close(found(x), made(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, each in PATTERNS.items() if each.spellings])
def test_a_pattern_runs_in_runtimes(name: str) -> None:
    spelling = PATTERNS[name].spellings[0]
    params, rows = params_of(spelling, 2), operands_of(spelling, 6)
    made = traced(lambda x: spelling(jnp.sin(x), *rows, **params), X)
    expected = evaluated(made, X)
    chex.assert_trees_all_close(
        ort.interpreted(onnx.write(made), X), expected, rtol=1e-5, atol=1e-5
    )
    chex.assert_trees_all_close(
        lite.interpreted(litert.write(made), X), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", [name for name, each in PATTERNS.items() if each.spellings])
def test_a_pattern_runs_in_openvino(name: str) -> None:
    ort.openvino_or_skip()
    spelling = PATTERNS[name].spellings[0]
    params, rows = params_of(spelling, 2), operands_of(spelling, 6)
    made = traced(lambda x: spelling(jnp.sin(x), *rows, **params), X)
    found = ort.in_openvino(openvino.write(made), X)
    chex.assert_trees_all_close(found, evaluated(made, X), rtol=1e-4, atol=1e-4)


def test_berts_norms_softmaxes_and_gelus_are_one_operator_each() -> None:
    pytest.importorskip("onnx")
    from slim.export.onnx.file import library

    model = Bert(BertConfig(width=32, depth=2, heads=2, hidden=64, vocabulary=200, positions=16))
    ids = rng.integers(0, 200, (2, 12)).astype(np.int32)
    mask = np.array([[1] * 12, [1] * 8 + [0] * 4], np.int32)
    variables = model.init(jax.random.key(0), ids, mask, train=False)
    made = traced(lambda *x: model.apply(variables, *x, train=False), ids, mask)
    written = onnx.write(made)
    codes = Counter(node.op_type for node in library().load_from_string(written).graph.node)
    assert (codes["LayerNormalization"], codes["Softmax"], codes["Gelu"]) == (2 * 2 + 1, 2, 2)
    assert not {"Erf", "Sqrt", "Exp", "ReduceSum", "ReduceMean"} & set(codes)
    lite_codes = Counter(litert.operators(litert.write(made)))
    assert (lite_codes["SOFTMAX"], lite_codes["GELU"]) == (2, 2)
    chex.assert_trees_all_close(
        ort.interpreted(written, ids, mask),
        evaluated(made, ids, mask),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("low", [np.finfo(np.float32).min, -np.inf, -1e9])
@pytest.mark.parametrize("seen", [True, False])
def test_a_mask_of_scores_is_added_where_that_is_the_same(low: float, seen: bool) -> None:
    def fn(x: jax.Array, mask: jax.Array) -> jax.Array:
        lows = jnp.full((), low, x.dtype)
        which = mask[:, None, :] > 0
        return jnp.where(which, x, lows) if seen else jnp.where(~which, lows, x)

    mask = np.array([[1, 1, 0, 1, 0, 1], [1, 0, 0, 0, 1, 1]], np.int32)
    made = traced(fn, X, mask)
    expected = evaluated(made, X, mask)
    chex.assert_trees_all_equal(ort.interpreted(onnx.write(made), X, mask), expected)
    written = litert.write(made)
    chex.assert_trees_all_equal(lite.interpreted(written, X, mask), expected)
    assert ("ADD" in litert.operators(written)) == (low < -1e30)

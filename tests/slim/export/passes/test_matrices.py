"""Kernels of several dimensions become matrices, and the program stays what it is."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.export import passes
from slim.export.fake_quant import fake_quant
from slim.export.program import program

rng = np.random.default_rng(0)
X = rng.normal(size=(2, 5, 6)).astype(np.float32)


def _normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def _kernels(made):
    makers = {value: node for node in made.nodes for value in node.outs}
    for node in made.nodes:
        if node.op == "dot_general":
            value = node.ins[1]
            yield made.types[makers[value].ins[0] if value in makers else value].shape


@pytest.mark.parametrize("batch", ["batch", 2])
def test_attention_has_matrices_and_computes_the_same_numbers(batch: str | int) -> None:
    attention = nn.MultiHeadDotProductAttention(num_heads=3)
    variables = attention.init(jax.random.key(0), X, X)
    variables = jax.tree.map(lambda v: v + 0.1, variables)
    made = program(lambda v, x: attention.apply(v, x, x), variables, X, batch=batch)
    plain = passes.simplify(passes.fold_constants(made))
    flat = passes.without_dead(passes.matrix_kernels(plain))
    weights = [shape for shape in _kernels(flat) if len(shape) == 2]
    assert weights == [(6, 6)] * 4
    assert {len(shape) for shape in _kernels(plain)} == {3, 4}
    chex.assert_trees_all_close(flat(X)[0], made(X)[0], rtol=1e-6, atol=1e-6)
    named = {flat.names[v].rsplit("/", 1)[0] for v in flat.names}
    assert {f"params/{name}" for name in ("query", "key", "value", "out")} <= named


def test_biases_are_added_before_the_dimensions_come_back() -> None:
    kernel, bias = _normal(6, 3, 2), _normal(3, 2)
    made = passes.standard(
        program(lambda w, x: jnp.dot(x, w[0]) + w[1], (kernel.reshape(6, 6), bias.ravel()), X)
    )
    assert [node.op for node in made.nodes][-1] == "add"

    def fn(w, x):
        return jnp.einsum("bld,dhw->blhw", x, w[0]) + w[1]

    made = passes.standard(program(fn, (kernel, bias), X))
    order = [node.op for node in made.nodes if node.op != "broadcast_in_dim"]
    assert order == ["dot_general", "add", "reshape"]
    chex.assert_trees_all_close(made(X)[0], fn((kernel, bias), X), rtol=1e-6, atol=1e-6)


def test_what_is_added_along_other_dimensions_stays_behind() -> None:
    kernel, rows = _normal(6, 3, 2), _normal(5, 3, 2)

    def fn(w, x):
        return jnp.einsum("bld,dhw->blhw", x, w) + rows

    made = passes.standard(program(fn, kernel, X))
    chex.assert_trees_all_close(made(X)[0], fn(kernel, X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 3, 2), (1, 6)), ((1, 3, 1), (1, 6)), ((1, 1, 1), (1, 1)), ((2, 3, 2), (2, 6))],
    ids=["channels", "heads", "tensor", "groups"],
)
def test_scales_follow_their_kernel(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    kernel, scale = _normal(6, 3, 2), np.abs(_normal(*shape)) + 0.01

    def fn(w, x):
        return jnp.einsum("bld,dhw->blhw", x, fake_quant(w, scale, None, "int8"))

    made = passes.standard(program(fn, kernel, X))
    (mark,) = [node for node in made.nodes if node.op == "fake_quant"]
    assert mark.params["scale"].shape == expected
    assert mark.params["axis"] == (1 if expected == (1, 6) else None)
    assert mark.params["group"] == (3 if expected[0] == 2 else None)
    chex.assert_trees_all_close(made(X)[0], fn(kernel, X), rtol=1e-6, atol=1e-6)


@given(
    summed=st.integers(1, 2), free=st.integers(1, 3), swapped=st.booleans(), biased=st.booleans()
)
def test_any_product_with_a_kernel_stays_what_it_is(
    summed: int, free: int, swapped: bool, biased: bool
) -> None:
    ends, outs = "ij"[:summed], "abc"[:free]
    sizes = dict(zip("ijabc", (2, 3, 4, 1, 2), strict=True))
    x = _normal(2, 5, *(sizes[d] for d in ends))
    inner = ends[::-1] if swapped else ends
    w = _normal(*(sizes[d] for d in inner + outs)), _normal(*(sizes[d] for d in outs))

    def fn(w, x):
        made = jnp.einsum(f"xy{ends},{inner}{outs}->xy{outs}", x, w[0])
        return made + w[1] if biased else made

    made = passes.standard(program(fn, w, x))
    assert all(len(shape) == 2 for shape in _kernels(made))
    chex.assert_trees_all_close(made(x)[0], fn(w, x), rtol=1e-5, atol=1e-5)

"""What stands between quantized sites is marked: equal to the same marks written by hand."""

from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.export import litert, passes
from slim.export.fake_quant import fake_quant
from slim.export.program import Program, program
from tests.slim.export.evaluated import evaluated
from tests.slim.export.litert.interpreted import interpreted

rng = np.random.default_rng(0)
X = rng.normal(size=(4, 8, 8, 4)).astype(np.float32)
IN = np.full((1, 1, 1, 1), 0.03, np.float32)
WEIGHTS = {
    name: rng.normal(size=(3, 3, 4, 4)).astype(np.float32) / 4 for name in ("a", "b", "c")
} | {"head": rng.normal(size=(4, 3)).astype(np.float32)}
SCALES = {
    name: np.abs(w).max(tuple(range(w.ndim - 1)), keepdims=True) / 127
    for name, w in WEIGHTS.items()
}


def _conv(w, name, x):
    kernel = fake_quant(w[name], SCALES[name], None, "int8")
    dims = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims) + 0.1


def _round(x, scale=IN, zero=None):
    zeros = None if zero is None else np.full(scale.shape, zero, np.int32)
    return fake_quant(x, scale, zeros, "int8" if zero is None else "uint8")


def _block(w, x, between=lambda name, x: x, shortcut=lambda x: x):
    """A block of two convolutions and the sum around it, a pool, a head."""
    first = jax.nn.relu(_conv(w, "a", _round(x)))
    inner = jax.nn.relu(_conv(w, "b", _round(first)))
    outer = between("c", _conv(w, "c", _round(inner)))
    summed = between("sum", jax.nn.relu(outer + shortcut(first)))
    pooled = summed.mean((1, 2))
    kernel = fake_quant(w["head"], SCALES["head"], None, "int8")
    return _round(pooled, IN.reshape(1, 1)) @ kernel


def _marks(made: Program) -> int:
    return sum(node.op == "fake_quant" and node.ins[0] not in made.constants for node in made.nodes)


def _made(fn=_block, batch="batch") -> Program:
    return passes.standard(program(fn, WEIGHTS, X, batch=batch))


def test_sums_and_pools_are_computed_of_marked_values() -> None:
    seen = {}

    def look(name, x):
        seen[name] = (float(min(x.min(), 0)), float(x.max()))
        return x

    _block(WEIGHTS, X, look, _round)

    def grid(name, x):
        low, high = seen[name]
        scale = np.float32((high - low) / 255)
        return _round(x, np.full((1, 1, 1, 1), scale), round(-low / float(scale)))

    by_hand = _block(WEIGHTS, X, grid, _round)
    full = passes.full_integer(_made(), [(X[:2],), (X[2:],)])
    chex.assert_trees_all_close(full(X)[0], by_hand, rtol=1e-5, atol=1e-5)
    assert _marks(full) == _marks(_made()) + 2  # the last convolution's result, the sum
    assert not np.allclose(full(X)[0], _made()(X)[0], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(full(X)[0], _made()(X)[0], atol=0.1)


def test_the_grid_of_a_recipe_stays_and_the_shortcut_reads_it() -> None:
    full = passes.full_integer(_made(), [(X,)])
    grids = [n.params for n in full.nodes if n.op == "fake_quant" and n.params["format"] == "int8"]
    assert Counter(float(g["scale"].item()) for g in grids if g["axis"] is None) == {
        float(np.float32(0.03)): 4
    }


def test_litert_runs_all_of_it_on_integers() -> None:
    pytest.importorskip("ai_edge_litert")
    full = passes.full_integer(_made(), [(X,)])
    model = litert.write(full)
    codes = Counter(litert.operators(model))
    assert (codes["QUANTIZE"], codes["CONV_2D"], codes["ADD"], codes["MEAN"]) == (1, 3, 1, 1)
    plain = Counter(litert.operators(litert.write(_made())))
    assert plain["DEQUANTIZE"] > codes["DEQUANTIZE"]
    found = interpreted(model, X)["logits"]
    chex.assert_trees_all_close(found, evaluated(full, X)["logits"], atol=0.05)


def test_float_neighbours_read_floats() -> None:
    """A norm after a sum keeps runtimes on floats: nothing there is to be rounded."""

    def fn(w, x):
        x = x.mean((1, 2))
        kernel = fake_quant(w["head"][:, :1], SCALES["head"][:, :1], None, "int8")
        x = x + _round(x, IN.reshape(1, 1)) @ kernel
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True))

    made = _made(fn)
    full = passes.full_integer(made, [])
    assert [n.op for n in full.nodes] == [n.op for n in made.nodes]


def test_results_of_convolutions_are_optional() -> None:
    def fn(w, x):
        return jnp.tanh(_conv(w, "a", _round(x)))

    assert _marks(passes.full_integer(_made(fn), [(X,)])) == 2
    assert _marks(passes.full_integer(_made(fn), [], results=False)) == 1


def test_moved_values_are_marked_where_they_were_made() -> None:
    def fn(w, x):
        x = _conv(w, "a", _round(x))
        y = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 0)))
        y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return _round(y).reshape(len(y), -1)[:, :4] @ fake_quant(
            w["head"], SCALES["head"], None, "int8"
        )

    full = passes.full_integer(_made(fn, 4), [(X,)])
    (conv,) = [n for n in full.nodes if n.op == "conv_general_dilated"]
    reader = next(n for n in full.nodes if n.op == "add" and conv.outs[0] in n.ins)
    marks = [n for n in full.nodes if n.op == "fake_quant" and n.ins[0] == reader.outs[0]]
    assert len(marks) == 1


def test_a_float_program_stays() -> None:
    made = passes.standard(program(lambda w, x: x @ w, np.eye(4, dtype=np.float32), X))
    assert passes.full_integer(made, []).nodes == made.nodes


def test_it_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no batches to take ranges from"):
        passes.full_integer(_made(), [])
    with pytest.raises(ValueError, match="not finite on these batches"):
        passes.full_integer(_made(), [(np.full_like(X, np.nan),)])

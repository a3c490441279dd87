"""The bench of experts: what its rows compare."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import moe
from experiments.bench.moe import Layer, dense_passes, measure, mixture_passes, one_hot
from slim.measure.compiled import xla_flops
from slim.moe.mixture import dropless, reference

TINY = Layer(tokens=16, width=4, hidden=6, experts=4, k=2)


def test_the_peer_of_one_hot_tensors_computes_the_same():
    given = moe.random_experts(TINY)
    expected, _ = reference()(*given)
    y, dropped = jax.jit(one_hot(capacity_factor=2.0, group=8))(*given)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert dropped == 0
    weights, x, experts, gates = given
    _, dropped = one_hot(1.0, group=8)(weights, x, jnp.zeros_like(experts), gates)
    assert dropped == 2 * (2 * 8 - 4)


def test_dense_has_the_operations_of_the_experts_a_token_takes():
    forward = dense_passes(TINY)["forward"]
    counted = xla_flops(forward.func.lower(*forward.args).compile())
    elementwise = 8 * TINY.tokens * TINY.k * TINY.hidden
    assert TINY.operations <= counted <= TINY.operations + elementwise


def test_both_passes_give_all_gradients():
    y, (trained,) = mixture_passes(TINY, dropless("blocks"))["forward and backward"]()
    weights, x, _, gates = moe.random_experts(TINY)
    chex.assert_trees_all_equal_shapes(y, x)
    chex.assert_trees_all_equal_shapes(trained, (weights, x, gates))


@pytest.mark.slow
def test_rows_of_tiny_layers(monkeypatch):
    monkeypatch.setattr(moe, "MANY", 9)
    rows = measure(TINY, TINY, "cpu", rounds=1)
    assert [row.goal for row in rows] == [
        *["<= 1.5"] * 2,
        *["<= 1.0"] * 2,
        *[""] * 2,
        *["<= 1.0"] * 2,
        *[""] * 2,
        *["<= 1.3"] * 2,
    ]
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.ours > 0 and row.peer > 0 for row in rows)

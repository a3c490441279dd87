"""Factors after convolutions and products go into the kernels, and nothing else does."""

from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.export import passes
from slim.export.fake_quant import fake_quant
from slim.export.program import program
from slim.models.resnet import CifarResNet

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(2, 8, 8, 3)).astype(np.float32)
X = rng.normal(size=(3, 4)).astype(np.float32)
W = rng.normal(size=(4, 5)).astype(np.float32)
ROW = rng.uniform(0.5, 1.5, 5).astype(np.float32)


@pytest.mark.parametrize("batch", ["batch", 2])
def test_batch_norms_are_folded(batch: str | int) -> None:
    model = CifarResNet(8, 10, width=4)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))
    variables = jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype(s.dtype), shapes)
    made = program(lambda v, x: model.apply(v, x, train=False), variables, IMAGES, batch=batch)
    found = passes.standard(made)
    counts = Counter(node.op for node in found.nodes)
    assert not {"mul", "sub", "rsqrt"} & set(counts)
    names = {name for name in found.names.values() if "kernel" in name}
    assert names == {name for name in made.names.values() if "kernel" in name}
    chex.assert_trees_all_close(found(IMAGES), made(IMAGES), rtol=1e-5, atol=1e-5)


def test_a_product_takes_factors_terms_and_divisors() -> None:
    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        return ((x @ w + ROW) * 2.0 - 1.0) / ROW + 3.0

    made = program(fn, W, X)
    found = passes.standard(made)
    assert [node.op for node in found.nodes] == ["dot_general", "broadcast_in_dim", "add"]
    chex.assert_trees_all_close(found(X), made(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["marked", "read twice", "shared", "by rows", "divided by"])
def test_what_is_left_alone(case: str) -> None:
    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        if case == "marked":
            return x @ fake_quant(w, np.full((1, 5), 0.05, np.float32), None, "int8") * ROW
        y = x @ w
        if case == "read twice":
            return y * ROW + jnp.tanh(y)
        if case == "shared":
            return (y * ROW)[:, :4] @ w
        return 1.0 / y if case == "divided by" else y * jnp.arange(1.0, 4.0)[:, None]

    made = program(fn, W, X, batch=3)
    found = passes.standard(made)
    assert {"mul", "div"} & {node.op for node in found.nodes}
    chex.assert_trees_all_close(found(X), made(X), rtol=1e-5, atol=1e-5)

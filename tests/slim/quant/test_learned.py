"""Scales come apart into vectors and the rest, and together again."""

import chex
import jax
import jax.numpy as jnp

from slim import paths
from slim.graph import trace
from slim.quant import (
    Activations,
    Policy,
    Rule,
    Weights,
    assign,
    calibrate,
    join,
    separate,
    simulate,
)
from slim.quant.learned import LEAST

X = jax.random.normal(jax.random.key(0), (8, 6))
PARAMS = {"w": jax.random.normal(jax.random.key(1), (3, 6, 6)), "last": jnp.eye(6)}


def fn(params, x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])
    return x @ params["last"]


GRAPH = trace(fn, PARAMS, X)
SITES = assign(GRAPH, Policy((Rule("*", Weights("int4", 2), Activations("int4")),), None))
FACTORS = {"w": jnp.full((3, 1, 6), 2.0)}
SCALES = calibrate(GRAPH, SITES, PARAMS, [(X,)], smoothing=FACTORS)


def test_scales_come_back():
    chex.assert_trees_all_equal(join(SITES, *separate(SCALES)), SCALES)


def test_what_is_trained_is_vectors_and_what_is_not_is_apart():
    vectors, rest = separate(SCALES)
    assert {path: leaf.shape for path, leaf in paths.flatten(vectors).items()} == {
        "last/data": (1,),
        "last/weights": (18,),
        "w/data": (3,),
        "w/weights": (54,),
    }
    assert paths.flatten(rest).keys() == {
        "last/data/zero_point",
        "w/data/zero_point",
        "w/smoothing",
    }


def test_a_scale_stays_positive():
    vectors, rest = separate(SCALES)
    joined = join(SITES, jax.tree.map(jnp.negative, vectors), rest)
    assert float(joined["last"]["data"].scale.max()) == jnp.float32(LEAST)
    outputs = simulate(GRAPH, SITES)(PARAMS, joined, X)
    assert bool(jnp.isfinite(outputs).all())


def test_vectors_get_gradients():
    vectors, rest = separate(SCALES)

    def loss(vectors):
        return (simulate(GRAPH, SITES)(PARAMS, join(SITES, vectors, rest), X) ** 2).sum()

    grads = jax.grad(loss)(vectors)
    assert all(bool((leaf != 0).any()) for leaf in jax.tree.leaves(grads))

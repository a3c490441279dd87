"""The cross-entropy by parts of the vocabulary beside that of all logits, in both passes."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from slim.measure.classification import cross_entropy
from slim.models.deepseek import Layout
from slim.models.deepseek.foretell import foretell

BATCH, LENGTH, WIDTH, VOCABULARY = 8, 3, 32, 192


@pytest.fixture(scope="module")
def arrays():
    """States, the head, labels and the losses' gradient; some logits near 100."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
    states[0] *= 10
    head = rng.normal(size=(WIDTH, VOCABULARY)).astype(np.float32)
    labels = rng.integers(0, VOCABULARY, (BATCH, LENGTH)).astype(np.int32)
    labels[1] = (states @ head)[1].argmax(-1)
    return states, head, labels, rng.normal(size=(BATCH, LENGTH)).astype(np.float32)


def at_once(states, head, labels):
    logits = states @ head
    return cross_entropy(logits, labels), logits.argmax(-1) == labels


def both_passes(fn, states, head, labels, gradient):
    (loss, pull, right) = jax.vjp(lambda s, h: fn(s, h, labels), states, head, has_aux=True)
    return loss, right, pull(gradient)


@pytest.fixture(scope="module")
def expected(arrays):
    found = jax.jit(partial(both_passes, at_once))(*arrays)
    assert 0 < found[1].sum() < found[1].size
    return found


@pytest.mark.parametrize("parts", [1, 4])
def test_parts_are_the_whole(arrays, expected, parts):
    by_parts = partial(both_passes, partial(foretell, parts=parts, layout=None))
    chex.assert_trees_all_close(jax.jit(by_parts)(*arrays), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 2, 2, 1), (1, 2, 2, 2), (1, 1, 4, 2)])
def test_over_a_mesh_too(arrays, expected, sizes):
    mesh = jax.make_mesh(
        sizes, ("data", "fsdp", "expert", "tensor"), axis_types=(AxisType.Auto,) * 4
    )
    by_parts = partial(both_passes, partial(foretell, parts=3, layout=Layout(mesh)))
    found = jax.jit(by_parts)(*arrays)
    chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_array_is_as_large_as_all_logits():
    array = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    labels = jax.ShapeDtypeStruct((1, 7), jnp.int32)

    def loss(states, head, labels):
        return foretell(states, head, labels, 8, None).loss.sum()

    traced = str(jax.make_jaxpr(jax.grad(loss))(array((1, 7, 4)), array((4, 64)), labels))
    assert "7,64" not in traced
    assert "7,8]" in traced


def test_parts_that_do_not_divide_the_vocabulary_are_refused(arrays):
    with pytest.raises(ValueError, match="parts is 5; allowed: a divisor of 192 columns"):
        foretell(*arrays[:3], 5, None)

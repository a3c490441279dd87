"""Values for every kind of loss, and what else a loss is given."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.distill import top_k
from tests.slim.distill.losses.references import softmax

SHAPES = {
    "logits": (8, 10),
    "top_k": (8, 10),
    "features": (8, 3, 3, 6),
    "hidden": (8, 5, 6),
    "attention": (8, 2, 5, 5),
}
K = 4
TEMPERATURE = 2.0


def value(kind, seed, batch=8, dtype=jnp.float32):
    """A student's; also the full value that a teacher's is `kept` of."""
    x = np.random.default_rng(seed).normal(size=(batch, *SHAPES[kind][1:]))
    return (softmax(x) if kind == "attention" else x).astype(dtype)


def kept(kind, full):
    """What the loss takes of a teacher's value."""
    return largest(full) if kind == "top_k" else full


@jax.jit
def largest(logits):
    return top_k(logits, K, TEMPERATURE)


def settings(loss, batch=8):
    """What a loss must be given beside the values, and the temperature that `kept` has."""
    given = {"labels": np.arange(batch, dtype=np.int32), "temperature": np.float32(TEMPERATURE)}
    return {name: given[name] for name in loss.settings if name in given}

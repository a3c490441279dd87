"""Loss, perplexity and accuracy of a model of language, accumulated batch by batch.

An accumulator is a pytree of sums, as in `slim.measure.classification`: adding two of them leaf by
leaf is the accumulator of all their tokens. Counts are float32, exact up to 2**24 tokens.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.measure.classification import cross_entropy


class Sums(NamedTuple):
    """Sums over tokens, each counted by the weight of its row; all of shape ().

    Attributes:
        loss: -log p(token | those before it), in nats.
        right: tokens that had the largest logit.
        tokens: all of them.
    """

    loss: jax.Array
    right: jax.Array
    tokens: jax.Array


class Scores(NamedTuple):
    """What `result` reads from a `Sums`; all shape (), all NaN when no token counted.

    Attributes:
        loss: per token, in nats.
        top1: share of tokens that had the largest logit, 0 to 1.
        perplexity: exp(loss); of other tokens of the same text it is another.
        bits_per_byte: loss / (ln 2 * bytes per token), which no choice of tokens changes.
    """

    loss: jax.Array
    top1: jax.Array
    perplexity: jax.Array
    bits_per_byte: jax.Array


def init() -> Sums:
    """The accumulator of no tokens."""
    return Sums(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))


def update(acc: Sums, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    """Adds a batch.

    Args:
        acc: the sums so far.
        logits: `(batch, length, vocabulary)`, any float type.
        labels: `(batch, length)`, the tokens that come next.
        weights: `(batch,)`, float32: 1 counts a row, 0 ignores it, whatever stands in it.
    """
    counted = jnp.broadcast_to(weights[:, None], labels.shape)
    loss = jnp.where(counted > 0, cross_entropy(logits, labels), 0)
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    return Sums(
        loss=acc.loss + jnp.sum(counted * loss),
        right=acc.right + jnp.sum(counted * right),
        tokens=acc.tokens + counted.sum(),
    )


def result(acc: Sums, bytes_per_token: float = math.nan) -> Scores:
    """The scores of everything accumulated.

    Args:
        acc: the sums.
        bytes_per_token: of the text that the labels are, a mean.

    >>> acc = update(init(), jnp.zeros((1, 3, 8)), jnp.array([[0, 1, 2]]), jnp.ones(1))
    >>> [round(float(score), 4) for score in result(acc, bytes_per_token=3.0)]
    [2.0794, 0.3333, 8.0, 1.0]
    """
    loss = acc.loss / acc.tokens
    return Scores(
        loss=loss,
        top1=acc.right / acc.tokens,
        perplexity=jnp.exp(loss),
        bits_per_byte=loss / (math.log(2) * bytes_per_token),
    )

"""Exit heads: a small classifier on the hidden state inside a network.

    head = exit_head(num_classes=2, pooling="first", pooler=True)
    params = head.init(key, hidden.shape)
    logits = head.apply(params, hidden)

A new pooling is a function (hidden, mask) -> `(batch, width)` and its place in `POOLINGS`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.paths import unknown_name

PyTree = Any


class Head(NamedTuple):
    """A classifier.

    Attributes:
        init: (key, shape of the hidden state) -> parameters, float32.
        apply: (parameters, hidden state, mask or None) -> logits float32, `(batch, classes)`.
    """

    init: Callable[[jax.Array, tuple[int, ...]], PyTree]
    apply: Callable[..., jax.Array]


def first(hidden: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The first position of `(batch, length, width)`: a class token."""
    if hidden.ndim != 3:
        raise ValueError(
            f"pooling 'first' of a hidden state {hidden.shape}: need (batch, length, width); use "
            "'mean' for maps"
        )
    return hidden[:, 0]


def mean(hidden: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over all positions of `(batch, ..., width)`; with a mask over those that it keeps.

    Args:
        hidden: tokens `(batch, length, width)` or maps `(batch, h, w, c)`.
        mask: `(batch, ...)`, 0 at padding; an example of padding alone has mean 0.
    """
    positions = tuple(range(1, hidden.ndim - 1))
    if mask is None:
        return hidden.mean(positions)
    if mask.shape != hidden.shape[:-1]:
        raise ValueError(
            f"mask {mask.shape} on a hidden state {hidden.shape}: need {hidden.shape[:-1]}"
        )
    weights = mask.astype(bool).astype(hidden.dtype)[..., None]
    return (hidden * weights).sum(positions) / jnp.maximum(weights.sum(positions), 1)


POOLINGS: Mapping[str, Callable[[jax.Array, jax.Array | None], jax.Array]] = {
    "first": first,
    "mean": mean,
}


def exit_head(num_classes: int, *, pooling: str = "mean", pooler: bool = False) -> Head:
    """Pooling, a tanh layer of the same width where `pooler` says so, and a linear classifier.

    `first` with a pooler is BERT's own head, as PABEE has it at every layer (Zhou et al. 2020,
    arXiv:2006.04152); `mean` without one is the exit of MSDNet and Shallow-Deep Networks for maps.

    Raises:
        ValueError: an unknown pooling; fewer than two classes.

    >>> head = exit_head(3, pooling="first", pooler=True)
    >>> params = head.init(jax.random.key(0), (8, 16, 32))
    >>> sorted(params), head.apply(params, jnp.ones((8, 16, 32))).shape
    (['classifier', 'pooler'], (8, 3))
    """
    if pooling not in POOLINGS:
        raise ValueError(unknown_name("pooling", pooling, POOLINGS))
    if num_classes < 2:
        raise ValueError(f"num_classes = {num_classes}: need at least 2")

    def init(key: jax.Array, shape: tuple[int, ...]) -> PyTree:
        width, keys = shape[-1], jax.random.split(key)
        params = {"classifier": _dense(keys[0], width, num_classes)}
        return {"pooler": _dense(keys[1], width, width), **params} if pooler else params

    def apply(params: PyTree, hidden: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = POOLINGS[pooling](hidden.astype(jnp.float32), mask)
        if pooler:
            x = jnp.tanh(x @ params["pooler"]["kernel"] + params["pooler"]["bias"])
        return x @ params["classifier"]["kernel"] + params["classifier"]["bias"]

    return Head(init, apply)


def _dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    kernel = jax.nn.initializers.lecun_normal()(key, (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}

"""Adversarial images: the worst that a small change of every pixel does to a classifier.

An attack is a pure function `(logits_fn, key, images, labels, epsilon) -> images`; `ATTACKS` lists
them. Images are float32 in [0, 1], and `epsilon` is in the same units: 8/255 is `8 / 255`. The
result differs by at most `epsilon` in every pixel and stays in [0, 1]. Attacks are untargeted and
white-box: they climb the cross-entropy of the true label by the model's own gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from slim.measure.classification import cross_entropy

LogitsFn = Callable[[jax.Array], jax.Array]
"""Images `(batch, height, width, channels)` in [0, 1] to logits `(batch, classes)`."""
Attack = Callable[[LogitsFn, jax.Array, jax.Array, jax.Array, jax.Array | float], jax.Array]


def _ascent(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The sign of each pixel's gradient of the loss; rows do not see each other."""

    def loss(x: jax.Array) -> jax.Array:
        return cross_entropy(logits_fn(x), labels).sum()

    return jnp.sign(jax.grad(loss)(images))


def fgsm(
    logits_fn: LogitsFn,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    epsilon: jax.Array | float,
) -> jax.Array:
    """One step to the corner of the ball: clip(x + epsilon sign(dL/dx), 0, 1).

    Goodfellow et al., arXiv:1412.6572, section 4. `key` is not used.
    """
    return jnp.clip(images + epsilon * _ascent(logits_fn, images, labels), 0, 1)


def pgd(
    logits_fn: LogitsFn,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    epsilon: jax.Array | float,
    *,
    steps: int = 10,
    step_size: jax.Array | float | None = None,
) -> jax.Array:
    """`steps` signed gradient steps from a random start, projected onto the l-infinity ball.

    Madry et al., arXiv:1706.06083, section 2.1. `step_size` is in pixel units; None is theirs of
    section 5, 2.5 epsilon / steps, which can cross the whole ball.
    """
    if step_size is None:
        step_size = 2.5 * epsilon / steps
    low, high = jnp.maximum(images - epsilon, 0), jnp.minimum(images + epsilon, 1)
    noise = jax.random.uniform(key, images.shape, images.dtype, minval=-1, maxval=1)
    start = jnp.clip(images + epsilon * noise, low, high)

    def step(_: int, x: jax.Array) -> jax.Array:
        return jnp.clip(x + step_size * _ascent(logits_fn, x, labels), low, high)

    # Unrolled: inside a loop XLA's CPU compiler leaves convolutions' gradients 20 times slower
    # (https://github.com/jax-ml/jax/issues/12868).
    return jax.lax.fori_loop(0, steps, step, start, unroll=True)


ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "pgd": pgd}

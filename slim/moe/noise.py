"""Noise on a router's way, in training only: other experts get a chance to be tried."""

import jax
import jax.numpy as jnp


def jittered(key: jax.Array, x: jax.Array, epsilon: float = 1e-2) -> jax.Array:
    """The router's input times uniform noise in [1 - epsilon, 1 + epsilon].

    Switch Transformer (arXiv:2101.03961, section 2.4). Shape and dtype are those of `x`.
    """
    noise = jax.random.uniform(key, x.shape, jnp.float32, 1 - epsilon, 1 + epsilon)
    return x * noise.astype(x.dtype)


def noisy_logits(key: jax.Array, logits: jax.Array, noise_logits: jax.Array) -> jax.Array:
    """Normal noise * softplus(noise_logits) added to the logits, float32.

    Noisy top-k gating (Shazeer et al. 2017, arXiv:1701.06538, eq. 4); `noise_logits`, of the shape
    of the logits, are a second linear map of the router's input.
    """
    noise = jax.random.normal(key, logits.shape, jnp.float32)
    scale = jax.nn.softplus(noise_logits.astype(jnp.float32))
    return logits.astype(jnp.float32) + noise * scale

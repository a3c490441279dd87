"""Rotary position embeddings (Su et al., arXiv:2104.09864), stretched by YaRN (arXiv:2309.00071).

Components 2i and 2i + 1 are a pair, as in the papers and in the published weights: a vector's pair
i at position m is turned by the angle m * f_i. The result keeps its components' order.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from slim.models.deepseek.config import DeepSeekConfig


def frequencies(config: DeepSeekConfig) -> np.ndarray:
    """f_i = base^(-2i / width) of each pair, float32 `(rotary_width / 2,)`.

    YaRN divides them by its factor s where a pair turns less than `slow` times over the L positions
    known before, keeps them where it turns more than `fast` times, and goes over linearly in i
    between (section 3.2; the ends are rounded to whole pairs, outwards, as in the published code).
    """
    width, yarn = config.rotary_width, config.yarn
    pairs = np.arange(width // 2)
    plain = config.base ** (-2 * pairs / width)
    if yarn is None:
        return plain.astype(np.float32)

    def pair_that_turns(times: float) -> float:
        """The i of base^(-2i / width) L = 2 pi times."""
        turns = yarn.positions / (2 * math.pi * times)
        return width * math.log(turns) / (2 * math.log(config.base))

    low = max(math.floor(pair_that_turns(yarn.fast)), 0)
    high = min(math.ceil(pair_that_turns(yarn.slow)), width - 1)
    slowed = np.clip((pairs - low) / max(high - low, 1e-3), 0, 1)
    return (plain * (1 - slowed) + plain / yarn.factor * slowed).astype(np.float32)


def amplitude(config: DeepSeekConfig) -> float:
    """What rotated vectors are multiplied by: 1 where both scales of YaRN are the same."""
    yarn = config.yarn
    if yarn is None:
        return 1.0
    return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all)


def softmax_scale(config: DeepSeekConfig) -> float:
    """What scores are multiplied by: 1 / sqrt(query width), times YaRN's mscale_all squared."""
    scale = (config.head_width + config.rotary_width) ** -0.5
    if config.yarn is None:
        return scale
    return scale * _mscale(config.yarn.factor, config.yarn.mscale_all) ** 2


def _mscale(factor: float, weight: float) -> float:
    """0.1 w ln s + 1 (YaRN, equation 22, with the published code's weight w)."""
    return 0.1 * weight * math.log(factor) + 1.0


def rotate(x: jax.Array, positions: jax.Array, config: DeepSeekConfig) -> jax.Array:
    """Turns every pair by its angle; in float32, the result has the input's dtype.

    Args:
        x: `(batch, length, rotary_width)`, or `(batch, length, heads, rotary_width)`.
        positions: int32 `(length,)`.
        config: whose frequencies it are.
    """
    angles = positions.astype(jnp.float32)[:, None] * frequencies(config)
    cos, sin = (fn(angles) * jnp.float32(amplitude(config)) for fn in (jnp.cos, jnp.sin))
    if x.ndim == 4:
        cos, sin = cos[:, None], sin[:, None]
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)

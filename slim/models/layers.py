"""The layers that the papers share: a square convolution, batch, layer and RMS normalization.

Flax computes its norms in float32 and leaves the casts around them to implicit promotion, which
strict dtype promotion refuses for bfloat16. The norms here cast in and out themselves: give them
no `dtype`, the result has the input's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

# He et al., arXiv:1502.01852: the variance 2 / fan_out keeps the gradient's size through ReLUs.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    features: int, size: int, stride: int, dtype: DTypeLike, name: str, groups: int = 1
) -> nn.Conv:
    """A `size x size` convolution without bias, padded so that stride 1 keeps height and width."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_normal,
        name=name,
    )


def check_dropout(dropout: float) -> None:
    """Refuse a rate outside [0, 1).

    Raises:
        ValueError: it is.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout} must be in [0, 1)")


class BatchNorm(nn.BatchNorm):
    """`flax.linen.BatchNorm` in float32 (Ioffe and Szegedy, arXiv:1502.03167)."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Normalize over all but the last axis; shape and dtype of `x` are kept."""
        return super().__call__(x.astype(jnp.float32), *args, **kwargs).astype(x.dtype)


class LayerNorm(nn.LayerNorm):
    """`flax.linen.LayerNorm` in float32 (Ba et al., arXiv:1607.06450)."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Normalize over the last axis; shape and dtype of `x` are kept."""
        return super().__call__(x.astype(jnp.float32), *args, **kwargs).astype(x.dtype)


class RMSNorm(nn.RMSNorm):
    """`flax.linen.RMSNorm` in float32 (Zhang and Sennrich, arXiv:1910.07467)."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        """Scale over the last axis; shape and dtype of `x` are kept."""
        return super().__call__(x.astype(jnp.float32), *args, **kwargs).astype(x.dtype)

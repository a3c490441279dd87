"""MobileNetV2: Sandler et al., "Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381.

Batch normalization has the constants of torchvision's published ImageNet weights, which these
modules hold (`experiments.weights.mobilenet_v2`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.layers import BatchNorm, check_dropout, conv

# Table 2: expansion t, channels c, repetitions n, stride s of the first.
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, but no less than 0.9 of it.

    >>> [round_channels(c) for c in (3, 16, 24 * 0.75, 18.9)]
    [8, 16, 24, 24]
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def batch_norm(train: bool, name: str) -> BatchNorm:
    """Batch normalization; the running averages keep 0.9 of themselves each step."""
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection (table 1)."""

    expansion: int
    channels: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`(batch, height, width, in)` to `(batch, height/stride, width/stride, channels)`."""
        y = x
        expanded = self.expansion * x.shape[-1]
        if self.expansion > 1:
            y = conv(expanded, 1, 1, self.dtype, "expand_conv")(y)
            y = nn.relu6(batch_norm(train, "expand_norm")(y))
        y = conv(expanded, 3, self.stride, self.dtype, "depthwise_conv", groups=expanded)(y)
        y = nn.relu6(batch_norm(train, "depthwise_norm")(y))
        y = conv(self.channels, 1, 1, self.dtype, "project_conv")(y)
        y = batch_norm(train, "project_norm")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Table 2, every number of channels times `width_multiplier` (the paper's alpha).

    Raises:
        ValueError: `width_multiplier` is not positive, or `dropout` is not in [0, 1).
    """

    num_classes: int
    width_multiplier: float = 1.0
    dropout: float = 0.2
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.width_multiplier <= 0:
            raise ValueError(f"width_multiplier = {self.width_multiplier} must be positive")
        check_dropout(self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images `(batch, height, width, channels)` to float32 logits `(batch, num_classes)`."""
        alpha = self.width_multiplier
        x = conv(round_channels(32 * alpha), 3, 2, self.dtype, "stem_conv")(images)
        x = nn.relu6(batch_norm(train, "stem_norm")(x))
        index = 0
        for expansion, channels, repetitions, first_stride in BOTTLENECKS:
            for repetition in range(repetitions):
                index += 1
                x = InvertedResidual(
                    expansion,
                    round_channels(channels * alpha),
                    stride=first_stride if repetition == 0 else 1,
                    dtype=self.dtype,
                    name=f"block{index}",
                )(x, train)
        # The last convolution is not made narrower for alpha < 1 (section 6.1).
        x = conv(round_channels(1280 * max(1.0, alpha)), 1, 1, self.dtype, "last_conv")(x)
        x = nn.relu6(batch_norm(train, "last_norm")(x))
        x = x.mean((1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.num_classes,
            dtype=jnp.float32,
            kernel_init=nn.initializers.normal(0.01),
            name="head",
        )(x)

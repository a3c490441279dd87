"""MobileNetV3: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244.

Batch normalization averages with decay 0.99 (section 6.1.1) and epsilon 0.001, TensorFlow's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.layers import BatchNorm, check_dropout, conv, he_normal
from slim.models.mobilenet_v2 import round_channels


class Row(NamedTuple):
    """One bottleneck of tables 1 and 2."""

    kernel: int
    expanded: int  # exp size
    channels: int  # #out
    squeeze: bool  # SE
    hard_swish: bool  # NL: HS, else RE
    stride: int


LARGE = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)

SMALL = (
    Row(3, 16, 16, True, False, 2),
    Row(3, 72, 24, False, False, 2),
    Row(3, 88, 24, False, False, 1),
    Row(5, 96, 40, True, True, 2),
    Row(5, 240, 40, True, True, 1),
    Row(5, 240, 40, True, True, 1),
    Row(5, 120, 48, True, True, 1),
    Row(5, 144, 48, True, True, 1),
    Row(5, 288, 96, True, True, 2),
    Row(5, 576, 96, True, True, 1),
    Row(5, 576, 96, True, True, 1),
)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """ReLU6(x + 3) / 6."""
    return nn.relu6(x + 3) / 6


def hard_swish(x: jax.Array) -> jax.Array:
    """The paper's h-swish: x ReLU6(x + 3) / 6 (section 5.2)."""
    return x * hard_sigmoid(x)


def batch_norm(train: bool, name: str) -> BatchNorm:
    """Batch normalization; the running averages keep 0.99 of themselves each step."""
    return BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, name=name)


class SqueezeExcite(nn.Module):
    """Scale each channel by a function of all channels' means, squeezed to a quarter (5.3)."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(batch, height, width, channels)` to the same shape."""
        channels = x.shape[-1]
        dense = partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype, kernel_init=he_normal)
        scale = x.mean((1, 2), keepdims=True)
        scale = nn.relu(dense(round_channels(channels / 4), name="squeeze")(scale))
        scale = hard_sigmoid(dense(channels, name="excite")(scale))
        return x * scale


class Bottleneck(nn.Module):
    """MobileNetV2's inverted residual with squeeze and excitation in its middle (figure 4)."""

    row: Row
    width_multiplier: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`(batch, height, width, in)` to `(batch, height/stride, width/stride, channels)`."""
        row = self.row
        activation: Callable[[jax.Array], jax.Array] = hard_swish if row.hard_swish else nn.relu
        expanded = round_channels(row.expanded * self.width_multiplier)
        channels = round_channels(row.channels * self.width_multiplier)
        y = x
        if expanded != x.shape[-1]:
            y = conv(expanded, 1, 1, self.dtype, "expand_conv")(y)
            y = activation(batch_norm(train, "expand_norm")(y))
        y = conv(expanded, row.kernel, row.stride, self.dtype, "depthwise_conv", expanded)(y)
        y = activation(batch_norm(train, "depthwise_norm")(y))
        if row.squeeze:
            y = SqueezeExcite(self.dtype, name="squeeze_excite")(y)
        y = conv(channels, 1, 1, self.dtype, "project_conv")(y)
        y = batch_norm(train, "project_norm")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV3(nn.Module):
    """A stem, the rows of a table, and the head of figure 5 with `last_width` features.

    Raises:
        ValueError: `width_multiplier` is not positive, or `dropout` is not in [0, 1).
    """

    rows: Sequence[Row]
    last_width: int
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
        x = conv(round_channels(16 * alpha), 3, 2, self.dtype, "stem_conv")(images)
        x = hard_swish(batch_norm(train, "stem_norm")(x))
        for index, row in enumerate(self.rows):
            x = Bottleneck(row, alpha, self.dtype, name=f"block{index + 1}")(x, train)
        x = conv(6 * x.shape[-1], 1, 1, self.dtype, "last_conv")(x)
        x = hard_swish(batch_norm(train, "last_norm")(x))
        x = x.mean((1, 2))
        small_normal = nn.initializers.normal(0.01)
        x = nn.Dense(
            round_channels(self.last_width * alpha),
            dtype=self.dtype,
            kernel_init=small_normal,
            name="features",
        )(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(hard_swish(x))
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=small_normal, name="head")(
            x
        )

"""Residual networks: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

Two families. `CifarResNet` is section 4.2: three stages of `n` basic blocks on small images, depth
`6n + 2`, identity shortcuts padded with zeros (option A). `ImageNetResNet` is table 1: four stages
of basic or bottleneck blocks behind a 7x7 stem, projection shortcuts where the size changes
(option B), the stride of a bottleneck in its 3x3 convolution, as every published weight has it.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.layers import BatchNorm, conv


def batch_norm(train: bool, name: str) -> BatchNorm:
    """Batch normalization; the running averages keep 0.9 of themselves each step."""
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def padded_shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """Option A: the identity, subsampled, with zeros for the new channels; no parameters."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    width: int
    stride: int
    shortcut: str
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`(batch, height, width, channels)` to `(batch, height/stride, width/stride, width)`."""
        y = conv(self.width, 3, self.stride, self.dtype, "conv1")(x)
        y = nn.relu(batch_norm(train, "norm1")(y))
        y = conv(self.width, 3, 1, self.dtype, "conv2")(y)
        y = batch_norm(train, "norm2")(y)
        if x.shape != y.shape and self.shortcut == "projection":
            x = conv(self.width, 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = batch_norm(train, "shortcut_norm")(x)
        elif x.shape != y.shape:
            x = padded_shortcut(x, self.width, self.stride)
        return nn.relu(x + y)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (figure 5, right)."""

    width: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`(batch, height, width, channels)` to `(batch, height/stride, width/stride, 4*width)`."""
        y = conv(self.width, 1, 1, self.dtype, "conv1")(x)
        y = nn.relu(batch_norm(train, "norm1")(y))
        y = conv(self.width, 3, self.stride, self.dtype, "conv2")(y)
        y = nn.relu(batch_norm(train, "norm2")(y))
        y = conv(4 * self.width, 1, 1, self.dtype, "conv3")(y)
        y = batch_norm(train, "norm3")(y)
        if x.shape != y.shape:
            x = conv(4 * self.width, 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = batch_norm(train, "shortcut_norm")(x)
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) for small images: stages of `width`, `2 width` and `4 width` channels.

    `shortcut` is "pad" (option A, the paper's) or "projection" (option B). Of any image size.

    Raises:
        ValueError: `depth` is not 6n + 2, or `shortcut` is neither of the two.
    """

    depth: int
    num_classes: int
    width: int = 16
    shortcut: str = "pad"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth = {self.depth} must be 6n + 2: 8, 14, 20, 32, 44, 56, 110 ...")
        if self.shortcut not in ("pad", "projection"):
            raise ValueError(f"shortcut = {self.shortcut!r} must be 'pad' or 'projection'")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images `(batch, height, width, channels)` to float32 logits `(batch, num_classes)`."""
        x = conv(self.width, 3, 1, self.dtype, "stem_conv")(images)
        x = nn.relu(batch_norm(train, "stem_norm")(x))
        for stage in range(3):
            for index in range((self.depth - 2) // 6):
                x = BasicBlock(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    shortcut=self.shortcut,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x, train)
        x = x.mean((1, 2))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x)


class ImageNetResNet(nn.Module):
    """ResNet-18, 34, 50, 101: `blocks` per stage of `width`, 2, 4 and 8 times `width` channels.

    `stem` is "imagenet" (7x7 stride 2, then a 3x3 max pool of stride 2) or "small" (3x3 stride 1,
    no pool) for images of about 32 pixels.

    Raises:
        ValueError: `stem` is neither of the two.
    """

    blocks: Sequence[int]
    bottleneck: bool
    num_classes: int
    width: int = 64
    stem: str = "imagenet"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.stem not in ("imagenet", "small"):
            raise ValueError(f"stem = {self.stem!r} must be 'imagenet' or 'small'")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images `(batch, height, width, channels)` to float32 logits `(batch, num_classes)`."""
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = conv(self.width, size, stride, self.dtype, "stem_conv")(images)
        x = nn.relu(batch_norm(train, "stem_norm")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block = BottleneckBlock if self.bottleneck else partial(BasicBlock, shortcut="projection")
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                x = block(
                    width=self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{index + 1}",
                )(x, train)
        x = x.mean((1, 2))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x)

"""The vision transformer: Dosovitskiy et al., "An Image Is Worth 16x16 Words", arXiv:2010.11929.

Size B is in the paper's table 1, Ti and S are those of Touvron et al. (DeiT), arXiv:2012.12877. The
projections to query, key and value are three parameters of shape `(width, heads, head_width)`, so
that heads and head widths are axes that can be read off and cut.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.layers import LayerNorm, check_dropout

xavier_uniform = nn.initializers.xavier_uniform()


class Attention(nn.Module):
    """Multi-head self-attention (appendix A): softmax(q k^T / sqrt(head_width)) v, per head."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(batch, length, width)` to the same shape."""
        width = x.shape[-1]
        head_width = width // self.heads

        def project(name: str) -> jax.Array:
            """`(batch, length, heads, head_width)`."""
            return nn.DenseGeneral(
                (self.heads, head_width), dtype=self.dtype, kernel_init=xavier_uniform, name=name
            )(x)

        query, key, value = project("query"), project("key"), project("value")
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * head_width**-0.5
        weights = nn.softmax(scores.astype(jnp.float32)).astype(self.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        return nn.DenseGeneral(
            width, axis=(-2, -1), dtype=self.dtype, kernel_init=xavier_uniform, name="out"
        )(mixed)


class EncoderBlock(nn.Module):
    """Attention and a GELU perceptron, each normalized before and added to its input (eq. 2, 3)."""

    heads: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`(batch, length, width)` to the same shape."""
        width = x.shape[-1]
        dropout = nn.Dropout(self.dropout, deterministic=not train)

        y = LayerNorm(epsilon=1e-6, name="norm1")(x)
        x = x + dropout(Attention(self.heads, self.dtype, name="attention")(y))

        y = LayerNorm(epsilon=1e-6, name="norm2")(x)
        y = nn.Dense(4 * width, dtype=self.dtype, kernel_init=xavier_uniform, name="mlp1")(y)
        y = dropout(nn.gelu(y, approximate=False))
        y = nn.Dense(width, dtype=self.dtype, kernel_init=xavier_uniform, name="mlp2")(y)
        return x + dropout(y)


class ViT(nn.Module):
    """`depth` encoder blocks over the image's patches and one class token, whose end is classified.

    The learnt position embedding fixes the image size to that of the images it was initialized on.

    Raises:
        ValueError: `heads` does not divide `width`, `dropout` is not in [0, 1), or (when called)
            `patch_size` does not divide the images' height and width.
    """

    width: int
    depth: int
    heads: int
    num_classes: int
    patch_size: int = 16
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}")
        check_dropout(self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images `(batch, height, width, channels)` to float32 logits `(batch, num_classes)`."""
        batch, height, width, _ = images.shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"patch_size = {self.patch_size} must divide the images' {height} x {width} pixels"
            )
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.width, patch, strides=patch, dtype=self.dtype, name="patch_embedding")(
            images
        )
        x = x.reshape((batch, -1, self.width))

        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        position = self.param("position_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + position.astype(x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        for index in range(self.depth):
            x = EncoderBlock(self.heads, self.dropout, self.dtype, name=f"block{index + 1}")(
                x, train
            )
        x = LayerNorm(epsilon=1e-6, name="norm")(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x[:, 0])

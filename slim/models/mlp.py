"""A multilayer perceptron: affine maps with ReLUs between (Rumelhart et al., Nature 1986)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from slim.models.layers import check_dropout


class MLP(nn.Module):
    """Hidden layers of the widths `hidden`, on the flattened image.

    Raises:
        ValueError: a width is not positive, or `dropout` is not in [0, 1).
    """

    num_classes: int
    hidden: Sequence[int] = (512, 512)
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if any(not isinstance(width, int) or width < 1 for width in self.hidden):
            raise ValueError(f"hidden = {self.hidden} must be integers of at least 1")
        check_dropout(self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Images `(batch, height, width, channels)` to float32 logits `(batch, num_classes)`."""
        x = images.reshape((images.shape[0], -1))
        for index, width in enumerate(self.hidden):
            x = nn.Dense(
                width,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
                name=f"hidden{index + 1}",
            )(x)
            x = nn.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(x)

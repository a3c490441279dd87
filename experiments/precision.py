"""What numbers are stored in, what is computed in, and the loss scale that float16 needs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

PyTree = Any

# After this many finite steps in a row the loss scale doubles (Micikevicius et al., 2018).
GROWTH_INTERVAL = 2000
MAX_SCALE = 2.0**24


class Precision(NamedTuple):
    """Storage and compute types of a training run.

    Attributes:
        storage: what parameters and their gradients are stored in.
        compute: what convolutions and matrix products compute in.
        initial_scale: the first loss scale; 1 where none is needed.
    """

    storage: DTypeLike
    compute: DTypeLike
    initial_scale: float = 1.0


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(jnp.float32, jnp.float32),
    "bfloat16": Precision(jnp.float32, jnp.bfloat16),
    "float16": Precision(jnp.float16, jnp.float32, initial_scale=2.0**15),
}


class LossScale(NamedTuple):
    """Dynamic loss scaling: the loss is multiplied by `scale` so that gradients do not underflow.

    Attributes:
        scale: float32 scalar.
        good_steps: finite steps since it last changed, int32 scalar.
    """

    scale: jax.Array
    good_steps: jax.Array

    @classmethod
    def start(cls, scale: float) -> "LossScale":
        """The state before the first step."""
        return cls(jnp.float32(scale), jnp.int32(0))

    def after(self, finite: jax.Array) -> "LossScale":
        """Halve after a step with non-finite gradients; double after `GROWTH_INTERVAL` good ones.

        A scale of 1 stays: it means that the precision needs no scaling.
        """
        grow = finite & (self.scale > 1) & (self.good_steps + 1 >= GROWTH_INTERVAL)
        scale = jnp.where(
            finite,
            jnp.where(grow, jnp.minimum(self.scale * 2, MAX_SCALE), self.scale),
            jnp.maximum(self.scale / 2, 1.0),
        )
        return LossScale(scale, jnp.where(finite & ~grow, self.good_steps + 1, 0))


def cast(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Floating-point leaves in `dtype`; all others as they are."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )

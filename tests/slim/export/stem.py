"""A quantized convolution of images, as networks begin with, for the tests of stems."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slim.export import passes
from slim.export.fake_quant import fake_quant
from slim.export.program import Program, program

STEP = np.full((1, 1, 1, 1), 0.03, np.float32)


def stem(
    size: tuple[int, int],
    channels: int,
    side: int,
    padding: Any,
    batch: str | int = "batch",
    stride: int = 2,
) -> tuple[Program, np.ndarray]:
    """The Program, and images for it."""
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(side, side, channels, 5)) / side**2).astype(np.float32)
    scale = np.abs(kernel).max((0, 1, 2), keepdims=True) / 127

    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        zero = np.full((1, 1, 1, 1), 100, np.int32)
        x = jax.lax.conv_general_dilated(
            fake_quant(x, STEP, zero, "uint8"),
            fake_quant(w, scale, None, "int8"),
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return fake_quant(jnp.maximum(x + 0.1, 0), STEP, np.zeros((1, 1, 1, 1), np.int32), "uint8")

    x = rng.normal(size=(3, *size, channels)).astype(np.float32)
    return passes.standard(program(fn, kernel, x, batch=batch)), x

"""Common corruptions of images: noise, blur, contrast and pixelation at severities 1 to 5.

A corruption is a pure function `(key, images, severity) -> images`; `CORRUPTIONS` lists them.
Images are float32 `(batch, height, width, channels)` in [0, 1], and so are the results; `severity`
is static. The constants are those that Hendrycks and Dietterich, arXiv:1903.12261, published for
32x32 images (CIFAR-10-C); they suit images up to about 64 pixels, and are mild on larger ones.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[jax.Array, jax.Array, int], jax.Array]

NOISE_DEVIATION = (0.04, 0.06, 0.08, 0.09, 0.10)
BLUR_DEVIATION = (0.4, 0.6, 0.7, 0.8, 1.0)  # in pixels
CONTRAST_KEPT = (0.75, 0.5, 0.4, 0.3, 0.15)
SIDE_KEPT = (0.95, 0.9, 0.85, 0.75, 0.65)


def _at(constants: tuple[float, ...], severity: int) -> float:
    """A corruption's constant at a severity."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity = {severity!r} must be one of 1, 2, 3, 4, 5")
    return constants[severity - 1]


def _filter(images: jax.Array, matrix: Callable[[int], np.ndarray]) -> jax.Array:
    """Applies the square matrix that `matrix(size)` gives to the rows, and one to the columns."""
    rows, columns = (jnp.asarray(matrix(size), images.dtype) for size in images.shape[1:3])
    return jnp.einsum("ij,bjkc,lk->bilc", rows, images, columns, precision="highest")


def gaussian_noise(key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Adds independent normal noise to every value."""
    noise = jax.random.normal(key, images.shape, images.dtype)
    return jnp.clip(images + _at(NOISE_DEVIATION, severity) * noise, 0, 1)


def gaussian_blur(key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Convolves with a Gaussian cut at 4 deviations; edges are continued. `key` is not used."""
    deviation = _at(BLUR_DEVIATION, severity)
    offsets = np.arange(-round(4 * deviation), round(4 * deviation) + 1)
    kernel = np.exp(-0.5 * (offsets / deviation) ** 2)
    kernel /= kernel.sum()

    def matrix(size: int) -> np.ndarray:
        blur = np.zeros((size, size))
        source = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1)
        np.add.at(blur, (np.arange(size)[:, None], source), kernel)
        return blur

    return jnp.clip(_filter(images, matrix), 0, 1)


def contrast(key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Draws every value towards its image's mean of that channel. `key` is not used."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return jnp.clip(mean + _at(CONTRAST_KEPT, severity) * (images - mean), 0, 1)


def pixelate(key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Shrinks by box averaging and enlarges by repetition. `key` is not used.

    A side of `n` pixels becomes int(c n) blocks; each pixel gets the mean of the block that its
    centre falls into.
    """
    kept = _at(SIDE_KEPT, severity)

    def matrix(size: int) -> np.ndarray:
        blocks = max(1, int(kept * size))
        block = (2 * np.arange(size) + 1) * blocks // (2 * size)
        together = (block[:, None] == block).astype(np.float64)
        return together / together.sum(axis=1, keepdims=True)

    return jnp.clip(_filter(images, matrix), 0, 1)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
    "pixelate": pixelate,
}

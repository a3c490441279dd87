"""Augmentations as pure functions on a batch, run on the device inside the jitted train step.

There they are the same in one process or many, on one device or many: each example's randomness
depends on the key and on its row in the global batch alone. Adding one is a config, a function and
a line in `AUGMENTATIONS`.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field

from experiments.schema import Schema


class Flip(Schema):
    """Mirrors left and right with probability 1/2."""

    name: Literal["flip"] = "flip"


class PadCrop(Schema):
    """Pads each side, then cuts a box of the old size at a random place (arXiv:1512.03385, 4.2)."""

    name: Literal["pad_crop"] = "pad_crop"
    padding: Annotated[int, Field(gt=0)] = 4
    mode: Literal["zeros", "reflect"] = "zeros"


class Cutout(Schema):
    """Zeroes a square whose centre is a random pixel; what juts out is lost (arXiv:1708.04552)."""

    name: Literal["cutout"] = "cutout"
    size: Annotated[int, Field(gt=0)] = 16


class Augmentation(NamedTuple):
    """A method of the table.

    Attributes:
        config: its fields; `name` is the key in the table.
        apply: (key, images (batch, height, width, channels) float32 in [0, 1], config) to images
            of the same shape and type. Pure; key and batch alone decide the result.
    """

    config: type[Schema]
    apply: Callable[[jax.Array, jax.Array, Any], jax.Array]


def _flip(key: jax.Array, images: jax.Array, config: Flip) -> jax.Array:
    mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def _pad_crop(key: jax.Array, images: jax.Array, config: PadCrop) -> jax.Array:
    batch, height, width, channels = images.shape
    margin = (config.padding, config.padding)
    padded = jnp.pad(
        images,
        ((0, 0), margin, margin, (0, 0)),
        mode="reflect" if config.mode == "reflect" else "constant",
    )
    corners = jax.random.randint(key, (batch, 2), 0, 2 * config.padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (corner[0], corner[1], jnp.zeros((), corner.dtype)), (height, width, channels)
        )

    return jax.vmap(crop)(padded, corners)


def _cutout(key: jax.Array, images: jax.Array, config: Cutout) -> jax.Array:
    batch, height, width, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def covered(key: jax.Array, length: int) -> jax.Array:
        """Which of `length` places the square covers, for each example: (batch, length)."""
        first = jax.random.randint(key, (batch, 1), 0, length) - config.size // 2
        place = jnp.arange(length)
        return (place >= first) & (place < first + config.size)

    square = covered(row_key, height)[:, :, None] & covered(column_key, width)[:, None, :]
    return jnp.where(square[..., None], jnp.zeros((), images.dtype), images)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": Augmentation(Flip, _flip),
    "pad_crop": Augmentation(PadCrop, _pad_crop),
    "cutout": Augmentation(Cutout, _cutout),
}


def build(configs: Sequence[Any]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The augmentations of `DataConfig.augment` as one function of a key and a batch of images.

    Args:
        configs: config objects of `AUGMENTATIONS`, in the order in which they are applied.

    Returns:
        A pure function (key, images (batch, height, width, channels) float32 in [0, 1]) to images;
        the identity where `configs` is empty.
    """

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        for i, config in enumerate(configs):
            images = AUGMENTATIONS[config.name].apply(jax.random.fold_in(key, i), images, config)
        return images

    return augment

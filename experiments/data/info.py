"""What is known of a data set before its data are read."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3054,), (0.3753,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet2012": _IMAGENET,
    "foolbox_imagenet": _IMAGENET,
}
"""Mean and standard deviation, per channel, of the training pixels scaled to [0, 1]."""


class Modality(NamedTuple):
    """What an example's input is: one array, whatever it stands for.

    Attributes:
        noun: what people call one.
        stored: the type of inputs in a batch.
        taken: the type that a network takes them in; see `experiments.network.prepare`.
    """

    noun: str
    stored: Any
    taken: Any


IMAGE = Modality("image", np.uint8, jnp.float32)
"""Pixels, `(height, width, channels)`."""
TEXT = Modality("text", np.int32, jnp.int32)
"""Token ids, `(length,)`, 0 where a text has ended; one label."""
LANGUAGE = Modality("sequence", np.int32, jnp.int32)
"""Token ids, `(length,)`, all of them real; the labels, `(length,)`, are the next ids."""


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """What is known of a data set before its data are read.

    Attributes:
        name: as in the config.
        input_shape: of one example: (height, width, channels) after `resize`, or (length,).
        num_classes: outputs that a classifier needs; of language the tokens.
        class_names: the labels' names, in order.
        num_train: examples in the training split.
        num_eval: examples in the evaluation split.
        mean: of the training pixels scaled to [0, 1], per channel; of texts ().
        std: likewise the standard deviation; a model sees (pixel - mean) / std.
        origin: where the data come from, for people.
        modality: what inputs are.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...]
    num_train: int
    num_eval: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    modality: Modality = IMAGE


def mean_and_std(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of a set by name, without its configuration and version; of others 1/2, to get [-1, 1].

    >>> mean_and_std("svhn_cropped:3.0.0", 1)
    ((0.5,), (0.5,))
    """
    return STATISTICS.get(name.split("/")[0].split(":")[0], ((0.5,) * channels, (0.5,) * channels))

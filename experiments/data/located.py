"""What is known of a set once it is found, and TFDS's slices of its splits."""

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow_datasets as tfds

from experiments.data.info import IMAGE, Modality
from experiments.data.sources import Source
from experiments.schema import ConfigError


@dataclasses.dataclass(frozen=True)
class Located:
    """A set that was found, unread.

    Attributes:
        splits: examples by split.
        input_shape: of an example: (height, width, channels), where height and width are None if
            images differ, or (length,).
        class_names: the labels' names, in order.
        origin: where the data come from, for people.
        open: from a slice of the splits (`train[:10%]`) and `resize` to its examples; prepares
            the set if need be.
        modality: what inputs are.
        eval_splits: the first of them that there is is evaluated on, unless told otherwise.
    """

    splits: Mapping[str, int]
    input_shape: tuple[int | None, ...]
    class_names: tuple[str, ...]
    origin: str
    open: Callable[[str, tuple[int, int] | None], Source]
    modality: Modality = IMAGE
    eval_splits: tuple[str, ...] = ("test", "validation")


def ranges(spec: str, splits: Mapping[str, int], field: str) -> list[tuple[str, range]]:
    """The examples that a TFDS slice stands for, as (split, positions) in order.

    Args:
        spec: such as `train[:10%]` or `train+validation[500:]`.
        splits: examples by split.
        field: where `spec` stands in the config, for messages.

    Raises:
        ConfigError: an unknown split, no slice, or nothing in it.

    >>> ranges("train[:50%]+test", {"train": 10, "test": 4}, "data.eval_split")
    [('train', range(0, 5)), ('test', range(0, 4))]
    """
    known = {
        split: tfds.core.SplitInfo(name=split, shard_lengths=[size], num_bytes=0)
        for split, size in splits.items()
    }
    allowed = "; splits: " + ", ".join(f"{split} ({size})" for split, size in splits.items())
    try:
        parts = tfds.core.ReadInstruction.from_spec(spec).to_absolute(known)
    except ValueError as error:
        why = str(error).rstrip(".")
        raise ConfigError(f"{field} = {spec!r}: {why}{allowed}") from None
    found = [
        (part.splitname, range(splits[part.splitname])[part.from_ : part.to]) for part in parts
    ]
    if not any(positions for _, positions in found):
        raise ConfigError(f"{field} = {spec!r}: no examples in it{allowed}")
    return found

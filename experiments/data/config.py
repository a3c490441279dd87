"""The `data` section of a config: which set, which splits, how it is batched and augmented."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic_core import PydanticCustomError

from experiments.data.augment import AUGMENTATIONS
from experiments.schema import ConfigError, Schema, parse, unknown_name

PositiveInt = Annotated[int, Field(gt=0)]


def _typed_augmentation(value: Any) -> Schema:
    """`{"name": "cutout", "size": 8}` as the config class that the table has for `cutout`."""
    if isinstance(value, Schema):
        return value
    try:
        if not isinstance(value, dict) or "name" not in value:
            raise ConfigError('an augmentation is a dict like {"name": "flip"}')
        if value["name"] not in AUGMENTATIONS:
            raise unknown_name("name", value["name"], AUGMENTATIONS)
        return parse(AUGMENTATIONS[value["name"]].config, value, value["name"])
    except ConfigError as error:
        raise PydanticCustomError("augmentation", "{why}", {"why": str(error)}) from None


class DataConfig(Schema):
    """What to train and evaluate on; sizes of batches are global, over all processes.

    >>> DataConfig(name="digits", batch_size=128, augment=({"name": "pad_crop", "padding": 1},))
    ... # doctest: +ELLIPSIS
    DataConfig(name='digits', batch_size=128, ..., augment=(PadCrop(name='pad_crop', padding=1...
    """

    name: str
    """`digits`, `foolbox_imagenet` (20 photographs, split `test`), `mnist`, `fashion_mnist`, or any
    image classification set of TFDS: `cifar10`."""
    batch_size: PositiveInt
    eval_batch_size: PositiveInt = 256
    train_split: str = "train"
    """A TFDS split: `train`, `train[:10%]`, `train[5000:]`, `train+validation`."""
    eval_split: str | None = None
    """None: `test`, or `validation` where there is no `test`."""
    augment: tuple[
        Annotated[SerializeAsAny[Schema], BeforeValidator(_typed_augmentation)], ...
    ] = ()
    """Applied in this order; each is a name of `AUGMENTATIONS` with its fields."""
    data_dir: str | None = None
    """Where TFDS's sets lie; None: `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    resize: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width): the largest centred box of that shape, scaled; a must where sizes differ."""
    num_classes: PositiveInt | None = None
    """How many labels the recipe was written for; refused where the set has another number."""
    in_memory_mib: Annotated[int, Field(ge=0)] = 512
    """A split that takes at most this many MiB decoded is read to memory once."""

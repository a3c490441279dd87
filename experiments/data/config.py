"""The `data` section of a config: which set, which splits, how it is batched and augmented."""

import itertools
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic_core import PydanticCustomError

from experiments.data import language_sets, text_sets, tfds_texts
from experiments.data.augment import AUGMENTATIONS
from experiments.data.byte_pairs import SMALLEST
from experiments.data.info import IMAGE, LANGUAGE, STATISTICS, TEXT, Modality
from experiments.data.replace_words import ReplaceWords
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


def _absent() -> Any:
    """None, and then not in keys, so that what ran before there was the field keeps its own."""
    return Field(default=None, exclude_if=lambda value: value is None)


class DataConfig(Schema):
    """What to train and evaluate on; sizes of batches are global, over all processes.

    >>> DataConfig(name="digits", batch_size=128, augment=({"name": "pad_crop", "padding": 1},))
    ... # doctest: +ELLIPSIS
    DataConfig(name='digits', batch_size=128, ..., augment=(PadCrop(name='pad_crop', padding=1...
    """

    name: str
    """`digits`, `foolbox_imagenet` (20 photographs, split `test`), `mnist`, `fashion_mnist`, or any
    image classification set of TFDS: `cifar10`. Texts: `rotten_tomatoes`, `imdb`, `bbc_news`, or
    any set of TFDS of texts, or pairs of them, with labels: `imdb_reviews`, `glue/mrpc`. Language:
    `brown`, `wordnet`, `text_files`, whose tokens are to be foretold, or `random_tokens`."""
    batch_size: PositiveInt
    eval_batch_size: PositiveInt = 256
    train_split: str = "train"
    """A TFDS split: `train`, `train[:10%]`, `train[5000:]`, `train+validation`."""
    eval_split: str | None = None
    """None: `test`, or `validation` where there is no `test`, or none with labels; of language
    `validation`."""
    augment: tuple[
        Annotated[SerializeAsAny[Schema], BeforeValidator(_typed_augmentation)], ...
    ] = ()
    """Of images; applied in this order; each is a name of `AUGMENTATIONS` with its fields."""
    data_dir: str | None = None
    """Where TFDS's sets lie; None: `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    resize: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width): the largest centred box of that shape, scaled; a must where sizes differ."""
    length: Annotated[int, Field(ge=3)] | None = None
    """Tokens of a text, a must there: longer ones are cut, shorter ones padded; not of images. Of a
    set of TFDS it says that it has texts. Of language: the tokens of a row, which a document ends
    or not."""
    vocabulary: Annotated[int, Field(ge=SMALLEST)] | None = _absent()
    """Tokens that are learnt from the training documents, a must of language and of nothing else;
    257 are the bytes and the end of a document."""
    files: str | None = _absent()
    """Of `text_files`: a glob, `texts/*.txt`."""
    separator: Annotated[str, Field(min_length=1)] | None = _absent()
    """Of `text_files`: what stands between the documents of a file; None: a file is one."""
    buckets: tuple[Annotated[int, Field(ge=3)], ...] = ()
    """Shorter lengths, ascending: a batch of texts has the shortest that fits all of them, and most
    batches have texts of one bucket alone; (): all batches have `length`."""
    replace_words: ReplaceWords | None = None
    """Adds copies of the training texts in which words are others."""
    num_classes: PositiveInt | None = None
    """How many labels the recipe was written for; refused where the set has another number."""
    in_memory_mib: Annotated[int, Field(ge=0)] = 512
    """A split that takes at most this many MiB decoded is read to memory once; texts always are."""

    @property
    def modality(self) -> Modality:
        """What examples are."""
        family = self.name.split("/")[0].split(":")[0]
        if family in text_sets.SETS or family in tfds_texts.NAMES:
            return TEXT
        if family in language_sets.NAMES:
            return LANGUAGE
        return IMAGE if family in STATISTICS or self.length is None else TEXT

    @pydantic.model_validator(mode="after")
    def _of_one_modality(self) -> "DataConfig":
        self._check_language()
        if self.modality == IMAGE:
            if self.length is not None:
                raise ValueError(
                    f"length = {self.length}: {self.name} has images, which have no tokens; leave "
                    "it out"
                )
            if self.buckets:
                raise ValueError(
                    f"buckets = {self.buckets} are lengths of texts, and {self.name} has images; "
                    "leave it out"
                )
            if self.replace_words is not None:
                raise ValueError(f"replace_words is for texts, and {self.name} has images")
            return self
        if self.length is None:
            raise ValueError(
                f"length = None: {self.name} has texts; give the tokens that one is cut or padded "
                "to, such as 64"
            )
        lengths = (*self.buckets, self.length)
        if any(short >= long for short, long in itertools.pairwise(lengths)):
            raise ValueError(
                f"buckets = {self.buckets} must ascend and be below length = {self.length}, which "
                "is one of the lengths anyway"
            )
        for field in ("augment", "resize"):
            if value := getattr(self, field):
                raise ValueError(
                    f"{field} = {value!r} is for images, and {self.name} has texts; leave it out"
                )
        return self

    def _check_language(self) -> None:
        if self.modality != LANGUAGE:
            for field in ("vocabulary", "files", "separator"):
                if (value := getattr(self, field)) is not None:
                    raise ValueError(
                        f"{field} = {value!r} is for {', '.join(language_sets.NAMES)}, and not for "
                        f"{self.name}; leave it out"
                    )
            return
        if self.vocabulary is None:
            raise ValueError(
                f"vocabulary = None: {self.name} needs it: how many tokens to learn, such as 4096"
            )
        if (self.name == language_sets.TEXT_FILES) != (self.files is not None):
            raise ValueError(
                f"files = {self.files!r} of {self.name}: text_files needs a glob, such as "
                "'texts/*.txt', and the others None"
            )
        if self.separator is not None and self.files is None:
            raise ValueError(f"separator = {self.separator!r} is for text_files; leave it out")
        for field in ("buckets", "replace_words"):
            if value := getattr(self, field):
                raise ValueError(
                    f"{field} = {value!r} is for texts with labels, and the rows of {self.name} "
                    "are all of one length; leave it out"
                )

"""`info` says what a set is without reading it; `load` makes it ready to be batched."""

import hashlib
import math

from experiments.data import (
    digits,
    foolbox_sets,
    language_sets,
    replace_words,
    text_sets,
    tfds_sets,
)
from experiments.data.config import DataConfig
from experiments.data.dataset import Dataset
from experiments.data.info import IMAGE, DataInfo, mean_and_std
from experiments.data.located import Located, ranges
from experiments.data.sources import Source, read_to_memory
from experiments.schema import ConfigError


def info(config: DataConfig) -> DataInfo:
    """What is known of the set before its data are read; takes well under a second.

    Of language it takes seconds the first time: how many rows there are follows from the tokens.

    Raises:
        ConfigError: unknown or absent set, no such split, fewer outputs than labels, or images of
            differing sizes without `resize`.
    """
    return _describe(config, _locate(config))


def load(config: DataConfig) -> Dataset:
    """The set ready to be batched: small splits in memory, large ones read as they are asked for.

    Raises:
        ConfigError: as `info`, or the files found are broken.
    """
    located = _locate(config)
    info = _describe(config, located)

    def opened(spec: str) -> Source:
        source = located.open(spec, config.resize)
        mib = len(source) * math.prod(info.input_shape) / 2**20
        if source.in_memory or mib > config.in_memory_mib:
            return source
        return read_to_memory(source, info.input_shape)

    train = opened(config.train_split)
    if config.replace_words is not None:
        folder = tfds_sets.folder(config.data_dir)
        train = replace_words.extend(train, config.replace_words, folder)
    evaluation = opened(_eval_split(config, located))
    parts = train.fingerprint() + evaluation.fingerprint()
    return Dataset(
        info=info,
        train=train,
        eval=evaluation,
        batch_size=config.batch_size,
        eval_batch_size=config.eval_batch_size,
        fingerprint=hashlib.sha256(parts.encode()).hexdigest(),
        buckets=config.buckets,
        bytes_per_token=getattr(evaluation, "bytes_per_token", math.nan),
    )


def _locate(config: DataConfig) -> Located:
    if config.name == "digits":
        return digits.locate()
    if config.name == foolbox_sets.IMAGENET:
        return foolbox_sets.locate()
    if config.name in text_sets.SETS:
        assert config.length is not None
        return text_sets.locate(config.name, config.length)
    if config.name in language_sets.NAMES:
        assert config.length is not None
        assert config.vocabulary is not None
        return language_sets.locate(
            config.name,
            tfds_sets.folder(config.data_dir),
            length=config.length,
            vocabulary=config.vocabulary,
            files=config.files,
            separator=config.separator,
        )
    return tfds_sets.locate(config.name, config.data_dir, config.length)


def _eval_split(config: DataConfig, located: Located) -> str:
    if config.eval_split is not None:
        return config.eval_split
    known = located.eval_splits
    return next((split for split in known if split in located.splits), known[-1])


def _describe(config: DataConfig, located: Located) -> DataInfo:
    labels = len(located.class_names)
    if config.num_classes not in (None, labels):
        raise ConfigError(
            f"data.num_classes = {config.num_classes}: {config.name} has {labels} labels; "
            f"give {labels}, or None"
        )

    def size(spec: str, field: str) -> int:
        return sum(len(positions) for _, positions in ranges(spec, located.splits, field))

    shape = _input_shape(config, located)
    copies = 0
    if config.replace_words is not None:
        replace_words.check(config.replace_words, shape[0])
        copies = config.replace_words.copies
    mean, std = mean_and_std(config.name, shape[2]) if located.modality == IMAGE else ((), ())
    return DataInfo(
        name=config.name,
        input_shape=shape,
        num_classes=labels,
        class_names=located.class_names,
        num_train=size(config.train_split, "data.train_split") * (1 + copies),
        num_eval=size(_eval_split(config, located), "data.eval_split"),
        mean=mean,
        std=std,
        origin=located.origin,
        modality=located.modality,
    )


def _input_shape(config: DataConfig, located: Located) -> tuple[int, ...]:
    """Of one example, images resized."""
    shape = located.input_shape
    if config.resize is not None:
        shape = (*config.resize, *shape[2:])
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise ConfigError(
            f"data.resize = None: the images of {config.name} differ in size; "
            "give (height, width), such as (224, 224)"
        )
    return sizes

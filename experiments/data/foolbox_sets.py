"""20 photographs of ImageNet's classes, as foolbox's wheel has them: real images to try a model on.

The package is read and never imported, so its own dependencies need not be there.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.located import Located, ranges
from experiments.data.sources import ArraySource, fit
from experiments.schema import ConfigError
from experiments.weights.installed import installed_files

IMAGENET = "foolbox_imagenet"
PACKAGE = "foolbox==3.3.4"
FILES = "foolbox/data/imagenet_*.jpg"
SPLIT = "test"

SHORT_SIDE = 256
SIDE = 224


def locate() -> Located:
    """The photographs, undecoded: one split `test`, in the order of the files' names.

    Raises:
        ConfigError: the package is not installed; the message has the command.
    """
    try:
        files = installed_files(PACKAGE, FILES)
    except FileNotFoundError as error:
        raise ConfigError(f"data.name = {IMAGENET!r}: {error}") from None
    splits = {SPLIT: len(files)}

    def open_split(spec: str, resize: tuple[int, int] | None) -> ArraySource:
        positions = [i for _, part in ranges(spec, splits, "split") for i in part]
        images = [evaluation_crop(Image.open(files[i])) for i in positions]
        if resize is not None:
            images = [fit(image, resize) for image in images]
        return ArraySource(np.stack(images), np.array([_label(files[i]) for i in positions]))

    return Located(
        splits=splits,
        input_shape=(SIDE, SIDE, 3),
        class_names=tuple(map(str, range(1000))),
        origin=f"{PACKAGE}, inside its wheel",
        open=open_split,
    )


def _label(file: Path) -> np.int32:
    """The class, which is in the file's name: `imagenet_00_243.jpg`."""
    return np.int32(file.stem.rpartition("_")[2])


def evaluation_crop(picture: Image.Image) -> np.ndarray:
    """What ImageNet's classifiers are evaluated on: short side to 256, the middle 224 x 224.

    Returns:
        uint8 `(224, 224, 3)`.
    """
    scale = SHORT_SIDE / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))

"""Artefacts on disk: in folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folders(directory: Path, names: tuple[str, ...]) -> Iterator[dict[str, Path]]:
    """Folders to write into; they get their names when all is done, and are gone if it fails.

    Args:
        directory: where they will be.
        names: what they will be called.
    """
    partial = {name: directory / f".{name}.partial" for name in names}
    try:
        for path in partial.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        yield partial
        for name, path in partial.items():
            shutil.rmtree(directory / name, ignore_errors=True)
            path.replace(directory / name)
    finally:
        for path in partial.values():
            shutil.rmtree(path, ignore_errors=True)


def write(content: bytes | Mapping[str, bytes], path: Path) -> int:
    """Writes an artefact of one file, or of several under a folder `path`; gives their bytes."""
    files = (
        {path: content} if isinstance(content, bytes) else {path / n: c for n, c in content.items()}
    )
    for place, data in files.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return sum(map(len, files.values()))


def write_artefact(
    content: bytes | Mapping[str, bytes], folder: Path, suffix: str
) -> tuple[Path, int]:
    """Writes what a target's writer gave; gives what a runtime loads, and the bytes of all files.

    One file is `model` with the suffix. Of several that is the one of this suffix, a folder of this
    name if none has it, and where there is no suffix `folder` itself.
    """
    model = folder / f"model{suffix}"
    if isinstance(content, bytes):
        return model, write(content, model)
    if not suffix:
        return folder, write(content, folder)
    own = [name for name in content if Path(name).suffix == suffix]
    if len(own) == 1:
        return folder / own[0], write(content, folder)
    return model, write(content, model)

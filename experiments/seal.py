"""Seals: the sizes and checksums of a folder's files, so that damage is seen before it is used."""

import json
import zlib
from pathlib import Path

SUFFIX = ".seal"


def write(folder: Path) -> None:
    """Seals a complete folder; the seal lies beside it and appears at once or not at all."""
    content = {
        str(file.relative_to(folder)): [file.stat().st_size, _checksum(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    temporary = _path(folder).with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=0))
    temporary.replace(_path(folder))


def damage(folder: Path) -> str | None:
    """What of a folder differs from its seal; None if nothing does, or if it was never sealed."""
    if not _path(folder).exists():
        return None
    try:
        content: dict[str, list[int]] = json.loads(_path(folder).read_text())
    except ValueError:
        return "its seal cannot be read"
    for name, (size, checksum) in content.items():
        file = folder / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _checksum(file) != checksum:
            return f"{name} has another checksum than when it was written"
    return None


def clean(directory: Path) -> None:
    """Removes the seals of folders that are gone."""
    for seal in directory.glob(f"*{SUFFIX}"):
        if not seal.with_suffix("").exists():
            seal.unlink()


def _path(folder: Path) -> Path:
    return folder.with_name(folder.name + SUFFIX)


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum

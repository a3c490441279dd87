"""Plain text files as documents: one a file, or several with something between them."""

import glob
from collections.abc import Sequence
from pathlib import Path

from experiments.schema import ConfigError


def find(pattern: str | None) -> list[Path]:
    """The files that match a glob, sorted by path; `**` spans folders.

    Raises:
        ConfigError: none does, or there is no pattern.
    """
    if pattern is None:
        raise ConfigError("data.files = None: text_files needs it: a glob, such as 'texts/*.txt'")
    expanded = str(Path(pattern).expanduser())
    found = [Path(name) for name in sorted(glob.glob(expanded, recursive=True))]
    if not (files := [path for path in found if path.is_file()]):
        raise ConfigError(f"data.files = {pattern!r}: no file matches it")
    return files


def read(files: Sequence[Path], separator: str | None) -> list[str]:
    """The documents, UTF-8, in the order of the files; empty ones are left out.

    Args:
        files: the files.
        separator: what stands between the documents of a file; None: a file is one.
    """
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    documents = (
        part for text in texts for part in (text.split(separator) if separator else [text])
    )
    return [document.strip() for document in documents if document.strip()]

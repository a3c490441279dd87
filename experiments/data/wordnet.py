"""WordNet's glosses: 117,659 short definitions, many with examples of use.

Fellbaum, "WordNet: An Electronic Lexical Database", 1998; the database of version 3.0 as Debian's
`wordnet-base` has it. A document is one synset: its words, a colon and its gloss.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGED = Path("/usr/share/wordnet")
"""Where Debian's package puts the files."""
ADVICE = (
    "`apt-get install wordnet-base` puts it where it is found; without root, `apt-get download "
    "wordnet-base` and `dpkg -x wordnet-base_*.deb {folder}`"
)
FILES = ("data.[anv]*", "usr/share/wordnet/data.[anv]*")

_MARKER = re.compile(r"\((?:a|p|ip)\)$")
"""Where an adjective may stand; no part of the word."""


def read(files: Sequence[Path]) -> list[str]:
    """The synsets' texts, in the order of the files."""
    return [gloss for file in files for gloss in _glosses(file)]


def _glosses(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line[:2] != "  ":  # the licence
            yield described(line)


def described(line: str) -> str:
    """A line of the database as text; wndb(5WN) has its format.

    >>> described('00002137 03 n 02 abstraction 0 abstract_entity 0 000 | a general concept  ')
    'abstraction, abstract entity: a general concept'
    """
    fields, _, gloss = line.partition(" | ")
    parts = fields.split()
    words = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
    names = ", ".join(_MARKER.sub("", word).replace("_", " ") for word in words)
    return f"{names}: {gloss.strip()}"

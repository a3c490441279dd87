"""Tables of text, laid out for a terminal and for Markdown."""

from collections.abc import Iterable
from typing import NamedTuple

WIDTH = 100
GAP = "  "
BAR = r"\|"  # a vertical bar inside a Markdown cell


class Table(NamedTuple):
    """A caption, the names of the columns, and rows of as many cells; the first names the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = True
    """Whether all columns but the first hold numbers, which stand right."""


def terminal(tables: Iterable[Table], width: int = WIDTH) -> str:
    """Tables for a terminal; what does not fit beside goes below, after the first column again."""
    return "\n\n".join(_block(part) for table in tables for part in _parts(table, width))


def _parts(table: Table, width: int) -> list[Table]:
    """The table cut between columns into parts that fit."""
    widths = _widths(table)
    groups: list[list[int]] = []
    used = width
    for column in range(1, len(widths)):
        if used + len(GAP) + widths[column] > width:
            groups.append([0])
            used = widths[0]
        groups[-1].append(column)
        used += len(GAP) + widths[column]
    lines = (table.header, *table.rows)
    parts = [[tuple(line[column] for column in group) for line in lines] for group in groups]
    return [Table(table.caption, header, tuple(rows)) for header, *rows in parts]


def _block(table: Table) -> str:
    first, *others = _widths(table)
    lines = []
    for name, *cells in (table.header, *table.rows):
        right = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        lines.append(GAP.join([name.ljust(first), *right]))
    return "\n".join([table.caption, lines[0], "─" * len(lines[0]), *lines[1:]])


def _widths(table: Table) -> list[int]:
    return [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]


def markdown(table: Table) -> str:
    """A Markdown table without its caption."""
    rule = (":--", *["--:" if table.numeric else ":--"] * (len(table.header) - 1))
    return "\n".join(map(_markdown_row, (table.header, rule, *table.rows)))


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"

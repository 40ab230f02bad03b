"""Tables as Markdown for people and as CSV for programs and spreadsheets; what a catalog says stays plain text in both.

A table is a sequence of columns of one length. A cell is a string, an integer, a figure (NaN: there is none) or None.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Cell = str | int | float | None

DASH = "–"
"""Stands in Markdown where there is nothing."""

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""How a text begins that a spreadsheet may run: OWASP, "CSV Injection"; a leading apostrophe says that it is text."""

_MARKUP = re.compile(r"([\\`*_{}\[\]|~$])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Column(NamedTuple):
    """One column of a table, made by `texts`, `counts`, `percents`, `nats`, or by hand for one form only."""

    name: str | None
    """In CSV; None: not there."""
    heading: str | None
    """In Markdown; None: not there."""
    cells: Sequence[Cell]
    shown: Callable[[Any], str]
    """A cell as finished Markdown."""
    right: bool
    """Whether the cells stand at the right in Markdown, as figures do."""


def texts(name: str, heading: str, cells: Iterable[str | None]) -> Column:
    """A column of what a catalog or a person says."""
    return Column(name, heading, list(cells), markdown_text, right=False)


def counts(name: str, heading: str, cells: Iterable[int]) -> Column:
    """A column of whole numbers."""
    return Column(name, heading, [int(cell) for cell in cells], "{:,}".format, right=True)


def percents(name: str, heading: str, shares: Iterable[float]) -> Column:
    """A column of shares, 0..1, in percent."""
    return Column(f"{name}_percent", heading, [round(100 * float(share), 6) for share in shares], _figure, right=True)


def points(name: str, heading: str, differences: Iterable[float]) -> Column:
    """A column of differences of shares, -1..1, in points."""
    cells = [round(100 * float(difference), 6) for difference in differences]
    return Column(f"{name}_points", heading, cells, signed, right=True)


def nats(name: str, heading: str, sizes: Iterable[float]) -> Column:
    """A column of sizes in nats."""
    return Column(f"{name}_nats", heading, [float(size) for size in sizes], _figure, right=True)


def signed(figure: float) -> str:
    """A figure with its sign and two digits; a dash where there is none."""
    return DASH if math.isnan(figure) else f"{figure:+.2f}".replace("-", "−")


def markdown_text(text: str | None) -> str:
    """A text as one line in which Markdown and HTML find nothing to do; a dash where there is none."""
    line = " ".join(_CONTROL.sub(" ", text or "").split())
    return _MARKUP.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;") or DASH


def markdown_table(columns: Sequence[Column], rows: Iterable[int] | None = None) -> str:
    """The columns that have a heading, with these `rows`; None: with all."""
    there = [column for column in columns if column.heading is not None]
    lines = [
        [markdown_text(column.heading) for column in there],
        ["---:" if column.right else "---" for column in there],
        *(
            [column.shown(column.cells[row]) for column in there]
            for row in (range(len(there[0].cells)) if rows is None else rows)
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_bytes(columns: Sequence[Column]) -> bytes:
    """The columns that have a name as CSV (RFC 4180, UTF-8), in which a spreadsheet finds nothing to run.

    Texts that it would run get a leading apostrophe; numbers stay numbers, and a cell is empty where there is none.
    Lines end in CR LF: the csv module then quotes either of the two within a text, so that none of its lines can pass
    for a row.
    """
    there = [column for column in columns if column.name is not None]
    written = io.StringIO()
    rows = csv.writer(written)
    rows.writerow([_spreadsheet_cell(column.name) for column in there])
    for cells in zip(*(column.cells for column in there), strict=True):
        rows.writerow(map(_spreadsheet_cell, cells))
    return written.getvalue().encode()


def _figure(figure: float) -> str:
    return DASH if math.isnan(figure) else f"{figure:.2f}"


def _spreadsheet_cell(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(FORMULA) else cell
    return None if cell is None or math.isnan(cell) else cell

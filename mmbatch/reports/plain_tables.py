"""Tables as Markdown for people and as CSV for programs and spreadsheets; what a catalog says stays plain text in both.

A cell is a string, an integer, a figure (NaN: there is none) or None.
"""

import csv
import io
import math
import re
from collections.abc import Sequence

Cell = str | int | float | None

DASH = "–"
"""Stands in Markdown where there is nothing."""

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""How a text begins that a spreadsheet may run: OWASP, "CSV Injection"; a leading apostrophe says that it is text."""

_MARKUP = re.compile(r"([\\`*_{}\[\]|~$])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def percent(figure: float) -> str:
    """A figure in 0..1 as percent; a dash where there is none."""
    return DASH if math.isnan(figure) else f"{100 * figure:.2f}"


def signed(figure: float) -> str:
    """A figure with its sign and two digits; a dash where there is none."""
    return DASH if math.isnan(figure) else f"{figure:+.2f}".replace("-", "−")


def markdown_text(text: str | None) -> str:
    """A text as one line in which Markdown and HTML find nothing to do; a dash where there is none."""
    line = " ".join(_CONTROL.sub(" ", text or "").split())
    return _MARKUP.sub(r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;") or DASH


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, figures: int) -> str:
    """A table of finished Markdown cells, of which the last `figures` columns stand at the right of their columns."""
    marks = ["---"] * (len(headings) - figures) + ["---:"] * figures
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows))


def csv_bytes(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> bytes:
    """CSV (RFC 4180, UTF-8): texts that a spreadsheet would run get a leading apostrophe, numbers stay numbers.

    A cell is empty where a figure is NaN or there is nothing. Lines end in CR LF: the csv module then quotes either of
    the two within a text, so that none of its lines can pass for a row.
    """
    written = io.StringIO()
    csv.writer(written).writerows([_spreadsheet_cell(cell) for cell in row] for row in (columns, *rows))
    return written.getvalue().encode()


def _spreadsheet_cell(cell: Cell) -> Cell:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(FORMULA) else cell
    return None if cell is None or math.isnan(cell) else cell

"""The text of a product that text encoders read."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Fields = Literal["joined", "pair"]
"""`joined`: title and description are one text. `pair`: they are a tokenizer's first and second sentence."""

TEXT_COLUMNS = ("title", "description")
SEPARATOR = ". "
NO_TEXT = "no_text"
"""Reason code of a row with neither title nor description."""


def product_texts(batch: pa.Table, separator: str = SEPARATOR) -> pa.ChunkedArray:
    """Title and description joined by the separator, or the one that is there; null where both are null or blank."""
    title, description = (_blank_to_null(batch[name]) for name in TEXT_COLUMNS)
    return pc.coalesce(pc.binary_join_element_wise(title, description, separator), title, description)


def product_pairs(batch: pa.Table) -> list[tuple[str, str] | str | None]:
    """Title and description of each row, or the one that is there; None where both are null or blank."""
    columns = [_blank_to_null(batch[name]).to_pylist() for name in TEXT_COLUMNS]
    return [
        (title, description) if title and description else title or description
        for title, description in zip(*columns, strict=True)
    ]


def without_text(good: np.ndarray, rows: int) -> list[tuple[int, str, str]]:
    """The failures (`Prepared.failures`) of the rows that are not in `good`."""
    missing = np.setdiff1d(np.arange(rows), good, assume_unique=True).tolist()
    return [(row, NO_TEXT, "title and description are both empty") for row in missing]


def _blank_to_null(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)

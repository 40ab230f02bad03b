"""The one text of a product that text encoders read."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT_COLUMNS = ("title", "description")
NO_TEXT = "no_text"
"""Reason code of a row with neither title nor description."""


def product_texts(batch: pa.Table) -> pa.ChunkedArray:
    """Title and description joined by ". ", or the one that is there; null where both are null or blank."""
    title, description = (_blank_to_null(batch[name]) for name in TEXT_COLUMNS)
    return pc.coalesce(pc.binary_join_element_wise(title, description, ". "), title, description)


def without_text(good: np.ndarray, rows: int) -> list[tuple[int, str, str]]:
    """The failures (`Prepared.failures`) of the rows that are not in `good`."""
    missing = np.setdiff1d(np.arange(rows), good, assume_unique=True).tolist()
    return [(row, NO_TEXT, "title and description are both empty") for row in missing]


def _blank_to_null(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)

"""What the rows of a change feed do, in the words of Debezium, of Delta Lake's change data feed and of SQL.

Case does not matter. A row that says how a product was before an update says nothing new and is skipped.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.source_text import check_text

BAD_OPERATION = "bad_operation"
"""Reason code of a row whose operation is empty or none of these."""

UPSERTS = ("insert", "i", "create", "c", "read", "r", "update", "u", "update_postimage", "upsert")
"""The product is as the row says, whether it was there or not."""

DELETES = ("delete", "d")
"""The product is gone."""

SKIPPED = ("update_preimage",)


class Operations(NamedTuple):
    """What each of `[N]` rows does; one of `deleted`, `skipped` and `bad`, or an upsert."""

    deleted: np.ndarray
    """bool `[N]`: the product is gone."""
    skipped: np.ndarray
    """bool `[N]`: how the product was before."""
    bad: dict[int, str]
    """Row -> what is wrong with its operation."""
    undecodable: np.ndarray
    """bool `[N]`: not UTF-8."""


def upserts(count: int) -> Operations:
    """The operations of rows that are no feed's."""
    none = np.zeros(count, dtype=bool)
    return Operations(none, none, {}, none)


def check_operations(column: pa.Array) -> Operations:
    """The operations that a column names."""
    values, undecodable = check_text(column)
    words = pc.utf8_lower(values)
    known = _among(words, (*UPSERTS, *DELETES, *SKIPPED))
    bad = {row: _what(values[row].as_py()) for row in np.flatnonzero(~known & ~undecodable).tolist()}
    return Operations(_among(words, DELETES), _among(words, SKIPPED), bad, undecodable)


def _among(words: pa.Array, wanted: tuple[str, ...]) -> np.ndarray:
    found: np.ndarray = pc.is_in(words, value_set=pa.array(wanted)).to_numpy(zero_copy_only=False)
    return found


def _what(found: str | None) -> str:
    expected = ", ".join((*UPSERTS, *DELETES, *SKIPPED))
    return f"operation {'is empty' if found is None else repr(found[:40])}; expected one of {expected}"

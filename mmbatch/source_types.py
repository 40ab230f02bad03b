"""What to read from raw catalog files, in which parts, and what comes out of each part."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

REJECTS = pa.schema(
    [
        ("position", pa.int64()),  # row number in the file, from 0
        ("product_id", pa.string()),  # null: the row has none
        ("modality", pa.string()),  # null: the whole row; "image" or "label": the row is kept without that part
        ("reason", pa.string()),  # reason code
        ("message", pa.string()),  # what was found, for a person
    ]
)
"""One thing that could not be used; a row has at most one entry for the whole row, or one per part of it."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of the raw files hold what; the names are the files' own."""

    id: str
    """Product id: text or a number, unique in the whole source."""
    title: str | None = None
    """Product title."""
    description: str | None = None
    """Product description."""
    image: str | None = None
    """Image: bytes or `{bytes, path}` (Parquet), a path or URI (a relative one starts at the file's folder), or a list
    of these, of which the first is used."""
    image_vector: str | None = None
    """Instead of `image`, a vector that was computed from it elsewhere: a list of float16, float32 or float64 (Parquet;
    in HDF5 a row of a dataset with two axes) or of numbers (JSON Lines), as many in every row of the source."""
    label: tuple[str, ...] = ()
    """Category path: one column with a list, a name or, given `label_separator`, a joined path; or one column per
    level, root first."""
    label_separator: str | None = None
    """What joins the levels inside the one label column, such as " >> "."""
    no_label: str | None = None
    """What stands where a product has no such level, such as -1 in place of a category's code."""
    operation: str | None = None
    """What a row of a change feed does: see `source_operations`. None: the source is no feed, every row describes a
    product."""

    def names(self) -> list[str]:
        """Every named column, once."""
        named = (self.id, self.title, self.description, self.image, self.image_vector, *self.label, self.operation)
        return list(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class Unit:
    """A part of the source that one worker reads: some rows of a Parquet or HDF5 file, or a whole text file."""

    file: str
    """URI of the file; a local one is a plain absolute path."""
    part: int | None
    """Place among the parts of its file, from 0: a row group (Parquet), or a run of rows (HDF5); None: a text file,
    read whole."""
    index: int
    """Place among all units of the source, from 0: earlier rows have the lower index."""
    rows: int | None = None
    """Rows in this unit; None: not known before it is read."""
    vector_width: int | None = None
    """Numbers in each image vector of the source; None: it has none."""


class Reject(NamedTuple):
    """One row of `REJECTS`."""

    position: int
    product_id: str | None
    modality: str | None
    reason: str
    message: str


class Checked(NamedTuple):
    """A batch of checked rows, and what of it was rejected."""

    rows: pa.Table
    """`schema.SOURCE`, exactly."""
    rejects: pa.Table
    """`REJECTS`."""
    skipped: int = 0
    """Rows of a feed that say how a product was before: left out."""


class RawBatch(NamedTuple):
    """Rows as a file stores them, before any check."""

    table: pa.Table
    """The named columns. Text of any type; its UTF-8 is not checked. Image vectors as lists of floats."""
    positions: pa.Array
    """Row number of each row in its file, int64 `[N]`."""
    rejects: list[Reject]
    """Rows that could not be read at all."""


class Header(NamedTuple):
    """What a file says about its rows before they are read."""

    columns: dict[str, pa.DataType | None]
    """Columns in the file's order; the type is None where any value may be text."""
    parts: list[int] | None
    """Rows in each part that can be read alone; None: a text file."""
    has_rows: bool
    hint: str = ""
    """What is odd about the header, for the error that a missing column raises."""


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """`REJECTS` of these, in order."""
    return pa.Table.from_pylist([reject._asdict() for reject in rejects], schema=REJECTS)

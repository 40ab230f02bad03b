"""CSV and TSV files as raw batches, streamed in bounded memory.

A row with the wrong number of columns is rejected alone. A quote that is opened and never closed makes the rest of the
file one row, which a reader cannot tell from a long text; so a row of our own is appended to every stream, and a file
that swallows it is refused.
"""

import csv
import io
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mmbatch.errors import InputError
from mmbatch.source_files import open_source, suffix_of
from mmbatch.source_types import Columns, Header, RawBatch, Reject

BLOCK_BYTES = 4 << 20
"""Bytes parsed at a time, and so the longest row."""

SEPARATORS = ",;\t|"
"""What may stand between columns, most usual first."""

_HEAD_BYTES = 1 << 20
_END = "mmbatch: end of file 6f1d0c1e"
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_header(uri: str, columns: Columns) -> Header:
    """Columns of a CSV or TSV file; any value may be text."""
    names, separator, has_rows = _read_head(uri, columns)
    hint = ""
    if len(names) == 1 and any(mark in names[0] for mark in SEPARATORS):
        hint = f"the header is one column when split at {separator!r}, yet it contains other separators: {names[0]!r}"
    twice = sorted(name for name in columns.names() if names.count(name) > 1)
    if twice:
        raise InputError(f"{uri}: column {twice[0]!r} appears {names.count(twice[0])} times in the header")
    return Header(columns=dict.fromkeys(names), row_groups=None, has_rows=has_rows, hint=hint)


def read_batches(uri: str, columns: Columns) -> Iterator[RawBatch]:
    """Rows of a CSV or TSV file; a position counts data rows, blank lines left out."""
    names, separator, _ = _read_head(uri, columns)
    malformed: list[Reject] = []

    def skip(row: Any) -> str:
        malformed.append(_malformed(row))
        return "skip"

    with open_source(uri) as file:
        reader = pa.csv.open_csv(
            _EndMarked(file, separator.join([_END] * len(names))),
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # else rows have no number
            parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pa.csv.ConvertOptions(
                include_columns=columns.names(),
                column_types=dict.fromkeys(columns.names(), pa.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        yield from _numbered(uri, pa.Table.from_batches, reader, columns.id, malformed)

"""CSV and TSV files as raw batches, streamed in bounded memory.

A row with the wrong number of columns is rejected alone. A quote that is opened and never closed makes the rest of the
file one row, which a parser cannot tell from a long text; so a row of our own is appended to every stream, and a file
that swallows it is refused rather than read short.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from mmbatch.errors import InputError
from mmbatch.source_files import open_source, suffix_of
from mmbatch.source_text import UNCHECKED
from mmbatch.source_types import Columns, Header, RawBatch, Reject
from mmbatch.source_utf8 import STAND_IN, Utf8Stream

BLOCK_BYTES = 4 << 20
"""Bytes parsed at a time; a longer row cannot be read."""

SEPARATORS = ",;\t|"
"""What may stand between columns, most usual first."""

_VECTORS = "Parquet (a list of floats), HDF5 (a dataset with two axes) or JSON Lines (an array of numbers)"
_HEAD_BYTES = 1 << 20
_END = "mmbatch: end of file 6f1d0c1e"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_header(uri: str, columns: Columns) -> Header:
    """Columns of a CSV or TSV file; any value may be text."""
    if columns.image_vector is not None:
        raise InputError(f"{uri}: a CSV file cannot hold image vectors ({columns.image_vector!r}); expected {_VECTORS}")
    names, separator, has_rows = _read_head(uri, columns)
    for name in columns.names():
        if names.count(name) > 1:
            raise InputError(f"{uri}: column {name!r} appears {names.count(name)} times in the header")
    hint = ""
    if len(names) == 1 and any(mark in names[0] for mark in SEPARATORS):
        hint = f"split at {separator!r} the header is one column, {names[0][:80]!r}: another separator was used"
    return Header(columns=dict.fromkeys(names), parts=None, has_rows=has_rows, hint=hint)


def read_batches(uri: str, columns: Columns) -> Iterator[RawBatch]:
    """Rows of a CSV or TSV file, a block at a time; a position counts data rows, blank lines left out."""
    names, separator, _ = _read_head(uri, columns)
    malformed: list[Reject] = []

    def skip(row: Any) -> str:
        malformed.append(_malformed(row))
        return "skip"

    with open_source(uri) as file:
        stream = Utf8Stream(file, last_row=separator.join([_END] * len(names)))
        parsing = pacsv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=skip)
        yield from _numbered(uri, _tables(uri, stream, parsing, columns), columns.id, malformed)


def _tables(uri: str, stream: Utf8Stream, parsing: pacsv.ParseOptions, columns: Columns) -> Iterator[pa.Table]:
    try:
        batches = pacsv.open_csv(
            stream,
            read_options=pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # threads lose row numbers
            parse_options=parsing,
            convert_options=pacsv.ConvertOptions(
                include_columns=columns.names(),
                column_types=dict.fromkeys(columns.names(), pa.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        for batch in batches:
            table = pa.Table.from_batches([batch])
            yield _restore(table) if stream.damaged else table
    except pa.ArrowInvalid as error:
        limit = f"a row is longer than {BLOCK_BYTES >> 20} MiB, as when a quote is never closed"
        raise InputError(f"{uri}: cannot be split into rows ({limit}): {error}") from error


def _restore(table: pa.Table) -> pa.Table:
    """The table with a byte that is not UTF-8 for each stand-in, so that its row is found like in any other format."""
    columns = [
        pc.replace_substring(column.cast(pa.binary()), STAND_IN.encode(), b"\xff").cast(options=UNCHECKED)
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def _numbered(uri: str, tables: Iterator[pa.Table], id_column: str, malformed: list[Reject]) -> Iterator[RawBatch]:
    """Tables with the positions of their rows: malformed rows, which the parser left out, are counted too."""
    first, ended = 0, False
    skipped: list[int] = []  # positions of malformed rows at or after `first`: the parser may run ahead
    for table in tables:
        is_last = table.num_rows > 0 and table[id_column][-1].as_buffer().to_pybytes() == _END.encode()
        ended = ended or is_last
        rows = table.slice(0, table.num_rows - is_last)
        rejects = malformed.copy()
        malformed.clear()
        skipped += [reject.position for reject in rejects]
        candidates = np.arange(first, first + rows.num_rows + len(skipped))
        positions = np.setdiff1d(candidates, skipped)[: rows.num_rows]
        first = int(positions[-1]) + 1 if rows.num_rows else first
        skipped = [position for position in skipped if position >= first]
        if rows.num_rows or rejects:
            yield RawBatch(rows, pa.array(positions, pa.int64()), rejects)
    if not ended:
        raise InputError(f"{uri}: a quote opened at or after row {max(first - 1, 0)} is never closed")


def _malformed(row: Any) -> Reject:
    text = row.text[:80].replace(STAND_IN, "\ufffd")
    message = f"{row.actual_columns} columns, expected {row.expected_columns}: {text!r}"
    return Reject(row.number - 2, None, None, "malformed_row", message)  # numbered from 1, the header's number


def _read_head(uri: str, columns: Columns) -> tuple[list[str], str, bool]:
    """Column names, separator, and whether a row follows."""
    with open_source(uri) as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_UTF16_MARKS):
        raise InputError(f"{uri}: the file is UTF-16; expected UTF-8")
    text = head.decode("utf-8-sig", errors="replace")
    wanted = set(columns.names())
    candidates = "\t" if suffix_of(uri).startswith(".tsv") else SEPARATORS
    splits = {separator: _split_head(uri, text, separator) for separator in candidates}
    separator = max(splits, key=lambda mark: (len(wanted & set(splits[mark][0])), len(splits[mark][0])))
    names, has_rows = splits[separator]
    if any("\ufffd" in name for name in names):
        raise InputError(f"{uri}: the header is not UTF-8: {separator.join(names)[:80]!r}")
    return names, separator, has_rows


def _split_head(uri: str, text: str, separator: str) -> tuple[list[str], bool]:
    lines = io.StringIO(text, newline="")
    try:
        names = next((names for names in csv.reader(lines, delimiter=separator) if names), [])
    except csv.Error as error:
        raise InputError(f"{uri}: the header cannot be read: {error}") from error
    return names, any(line.strip() for line in lines)

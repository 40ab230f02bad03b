"""Tables as files for other programs: CSV, Parquet, JSON Lines, written part by part and there whole or not at all.

Strings, numbers, lists and maps of these are known. Lists and maps are native in Parquet and JSON Lines, and JSON text
in a cell of CSV. Nothing is done row by row: JSON is put together column by column.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import IO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mmbatch.errors import InputError
from mmbatch.reports.plain_tables import FORMULA
from mmbatch.storage import replacing, storage_error

Append = Callable[[pa.Table], None]
"""Adds rows to a file."""

JSON_ROWS = 10_000
"""Rows of which JSON is held at a time: some 20 MB of predictions."""

GZIP_LEVEL = 6
"""zlib's own default: at 9, the default of Python's gzip, it takes several times as long for a few percent."""

_FORMULA = "^([" + "".join(FORMULA).replace("-", "\\-") + "])"
"""`FORMULA` as a pattern."""

_ESCAPES = {"\\": "\\\\", '"': '\\"'} | {chr(code): f"\\u{code:04x}" for code in range(0x20)}
"""What JSON does not allow within a string (RFC 8259, section 7) -> how it is written; the backslash goes first."""

_ESCAPED = r'[\x00-\x1f"\\]'
"""The keys of `_ESCAPES` as a pattern."""


def ending_of(file: str, *, named: str) -> str:
    """The ending that says how a file is written; `InputError`, which calls the file `named`, when it says nothing."""
    for ending in _WRITERS:
        if file.lower().endswith(ending):
            return ending
    raise InputError(f"{named}: expected a name that ends in {', '.join(_WRITERS)}")


@contextmanager
def table_file(uri: str, schema: pa.Schema, *, named: str) -> Iterator[Append]:
    """Open a file, local or in an object store, to which tables of a schema are appended.

    It replaces the file that may be there once it is whole, when the block ends; a block that fails changes nothing.
    In CSV (UTF-8 with a header), a cell that a spreadsheet could take for a formula gets an apostrophe in front of it.

    Args:
        uri: where; its ending says how it is written, see `ending_of`.
        schema: columns of the file, which every table appended has.
        named: what messages call the file, such as the flag with its value.

    Raises:
        InputError: the ending is unknown, or the file cannot be written.
    """
    writer = _WRITERS[ending_of(uri, named=named)]
    with ExitStack() as opened:
        with _told(named):
            append = opened.enter_context(writer(opened.enter_context(replacing(uri)), schema))

        def append_told(rows: pa.Table) -> None:
            with _told(named):
                append(rows)

        yield append_told
        with _told(named):
            opened.close()


def json_texts(values: pa.Array) -> pa.Array:
    """Each value as JSON text, string `[N]`; null, and what no number is, as `null`."""
    if pa.types.is_map(values.type):
        key, item = pa.field("key", values.type.key_type, nullable=False), pa.field("value", values.type.item_type)
        lists = values.cast(pa.list_(pa.struct([key, item])))
        return _bracketed(lists, _entry_texts(lists.flatten()), "{}")
    if pa.types.is_list(values.type):
        return _bracketed(values, json_texts(values.flatten()), "[]")
    if pa.types.is_string(values.type):
        return pc.fill_null(pc.binary_join_element_wise('"', _escaped(values), '"', ""), "null")
    texts = values.cast(pa.string())
    if pa.types.is_floating(values.type):
        texts = pc.if_else(pc.is_finite(values), texts, None)
    return pc.fill_null(texts, "null")


def _escaped(texts: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, _ESCAPED)).as_py():
        for character, written in _ESCAPES.items():
            texts = pc.replace_substring(texts, character, written)
    return texts


def _entry_texts(entries: pa.Array) -> pa.Array:
    """`"key":value` of entries of maps, string `[N]`."""
    parts = (json_texts(pc.struct_field(entries, name)) for name in ("key", "value"))
    return pc.binary_join_element_wise(*parts, ":")


def _bracketed(lists: pa.Array, texts: pa.Array, brackets: str) -> pa.Array:
    """The texts of each list's own members, between brackets, string `[N]`; `null` where the list itself is null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
    whole = pc.binary_join_element_wise(brackets[0], joined, brackets[1], "")
    return pc.if_else(pc.is_valid(lists), whole, "null")


@contextmanager
def _told(named: str) -> Iterator[None]:
    """Raise the failure to write a file as one line that says which."""
    try:
        yield
    except OSError as error:
        reason = storage_error(error) or error.strerror or error
        raise InputError(f"{named}: cannot be written: {reason}") from error


@contextmanager
def _csv(sink: IO[bytes], schema: pa.Schema) -> Iterator[Append]:
    cells = pa.schema([field.with_type(pa.string()) if pa.types.is_nested(field.type) else field for field in schema])
    with pacsv.CSVWriter(sink, cells) as writer:
        yield lambda rows: writer.write_table(_cells(rows, cells))


def _cells(rows: pa.Table, cells: pa.Schema) -> pa.Table:
    columns = [_cell_column(rows[name]) for name in cells.names]
    return pa.table(columns, schema=cells)


def _cell_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type):
        texts = [pc.if_else(pc.is_valid(chunk), json_texts(chunk), None) for chunk in column.chunks]
        return pa.chunked_array(texts, pa.string())
    if pa.types.is_string(column.type):
        return pc.replace_substring_regex(column, _FORMULA, r"'\1")
    return column


@contextmanager
def _parquet(sink: IO[bytes], schema: pa.Schema) -> Iterator[Append]:
    with pq.ParquetWriter(sink, schema, compression="ZSTD") as writer:
        yield writer.write_table


@contextmanager
def _jsonl(sink: IO[bytes], schema: pa.Schema) -> Iterator[Append]:
    names = [json.dumps(name, ensure_ascii=False) for name in schema.names]

    def append(rows: pa.Table) -> None:
        for batch in rows.to_batches(max_chunksize=JSON_ROWS):
            sink.write(_json_lines(batch, names))

    yield append


def _json_lines(batch: pa.RecordBatch, names: list[str]) -> memoryview:
    """A line for each of one or more rows: the bytes of an Arrow column of lines, which lie one after the other."""
    parts: list[pa.Array | str] = []
    for name, column in zip(names, batch.columns, strict=True):
        parts += [f"{',' if parts else '{'}{name}:", json_texts(column)]
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    _, offsets, data = lines.buffers()
    return memoryview(data)[: memoryview(offsets).cast("i")[batch.num_rows]]


@contextmanager
def _gzipped(
    sink: IO[bytes], schema: pa.Schema, *, writer: Callable[[IO[bytes], pa.Schema], AbstractContextManager[Append]]
) -> Iterator[Append]:
    with (
        gzip.GzipFile("", "wb", GZIP_LEVEL, sink, mtime=0) as packed,
        writer(cast(IO[bytes], packed), schema) as append,
    ):
        yield append


_WRITERS: dict[str, Callable[[IO[bytes], pa.Schema], AbstractContextManager[Append]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".csv.gz": partial(_gzipped, writer=_csv),
    ".jsonl.gz": partial(_gzipped, writer=_jsonl),
}
"""Ending -> opens a table on a sink; nothing but what is appended is held."""

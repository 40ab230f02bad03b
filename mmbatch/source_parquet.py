"""Row groups of Parquet files as raw batches, streamed in bounded memory."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from mmbatch.errors import InputError
from mmbatch.source_files import open_source
from mmbatch.source_text import is_list
from mmbatch.source_types import Columns, Header, RawBatch
from mmbatch.source_vectors import is_vector

BATCH_BYTES = 64 << 20
"""Uncompressed bytes aimed at in one batch: with images in the file, a thousand rows can be gigabytes."""

_BUFFER_BYTES = 4 << 20  # read at a time per column


def read_header(uri: str, columns: Columns) -> Header:
    """Columns, types and row groups of a Parquet file; `InputError` for a column whose type cannot hold its content."""
    with open_source(uri, cache="none") as file:
        parquet = pq.ParquetFile(file)
        schema, metadata = parquet.schema_arrow, parquet.metadata
    row_groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    header = Header(
        columns={field.name: field.type for field in schema}, row_groups=row_groups, has_rows=any(row_groups)
    )
    for name in columns.names():
        if (found := header.columns.get(name)) is not None:
            _check_type(uri, name, found, columns)
    return header


def read_batches(uri: str, row_group: int, columns: Columns, *, batch_rows: int) -> Iterator[RawBatch]:
    """Rows of one row group; a position counts the rows of the whole file."""
    with open_source(uri, cache="none") as file:
        parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)  # else it holds the row group
        metadata = parquet.metadata
        position = sum(metadata.row_group(group).num_rows for group in range(row_group))
        batches = parquet.iter_batches(
            batch_size=min(batch_rows, _rows_that_fit(metadata.row_group(row_group), columns)),
            row_groups=[row_group],
            columns=columns.names(),
            use_threads=False,
        )
        for batch in batches:
            positions = pa.array(range(position, position + batch.num_rows), pa.int64())
            position += batch.num_rows
            yield RawBatch(pa.Table.from_batches([batch]), positions, [])


def _rows_that_fit(group: pq.RowGroupMetaData, columns: Columns) -> int:
    """Rows of average size, in the columns that are read, that fill `BATCH_BYTES`."""
    wanted = set(columns.names())
    chunks = [group.column(index) for index in range(group.num_columns)]
    total: int = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted)
    return max(1, BATCH_BYTES * int(group.num_rows) // max(total, 1))


def _check_type(uri: str, name: str, found: pa.DataType, columns: Columns) -> None:
    kind = found.value_type if types.is_dictionary(found) else found
    allowed = _is_text(kind)
    if name == columns.image_vector:
        allowed = is_vector(found)
    elif name == columns.image:
        allowed = allowed or _is_image(kind)
    elif columns.label == (name,):
        allowed = allowed or (is_list(kind) and _is_text(kind.value_type))
    if not allowed:
        role = {
            columns.image: "image bytes, {bytes, path}, paths or lists of paths",
            columns.image_vector: "lists of float16, float32 or float64",
        }.get(name, "text or numbers")
        raise InputError(f"{uri}: column {name!r} is of type {found}; expected {role}")


def _is_text(kind: pa.DataType) -> bool:
    tests = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary,
        types.is_binary_view, types.is_integer, types.is_floating, types.is_decimal, types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _is_image(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return {kind.field(index).name for index in range(kind.num_fields)} >= {"bytes", "path"}
    return is_list(kind) and _is_text(kind.value_type)

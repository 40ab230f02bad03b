"""Row groups of Parquet files as raw batches, streamed in bounded memory."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from mmbatch.source_columns import check_types
from mmbatch.source_files import open_source
from mmbatch.source_types import Columns, Header, RawBatch

BATCH_BYTES = 64 << 20
"""Uncompressed bytes aimed at in one batch: with images in the file, a thousand rows can be gigabytes."""

_BUFFER_BYTES = 4 << 20  # read at a time per column


def read_header(uri: str, columns: Columns) -> Header:
    """Columns, types and row groups of a Parquet file; `InputError` for a column whose type cannot hold its content."""
    with open_source(uri, cache="none") as file:
        parquet = pq.ParquetFile(file)
        schema, metadata = parquet.schema_arrow, parquet.metadata
    row_groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    found = {field.name: field.type for field in schema}
    check_types(uri, found, columns)
    return Header(columns=dict(found), parts=row_groups, has_rows=any(row_groups))


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

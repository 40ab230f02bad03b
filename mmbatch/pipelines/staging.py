"""Rows that one pass of a run sets aside for its next: Parquet files, sorted by bucket, that only this run knows."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mmbatch.failpoints import reach
from mmbatch.storage import filesystem_of, make_folder

STAGE_BYTES = 64 << 20
"""Staged rows are sorted by bucket and written in files of this size."""


class StagingWriter:
    """Collects tables and writes them sorted by bucket, one row group a bucket, so that a bucket is read alone."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.tables: list[pa.Table] = []
        self.bytes = self.files = 0

    def add(self, table: pa.Table) -> None:
        """Take rows, all of one schema with a column `bucket`; full files are written as they come to be."""
        if table.num_rows:
            self.tables.append(table)
            self.bytes += table.nbytes
        if self.bytes >= STAGE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was taken and not written yet."""
        if not self.tables:
            return
        table = pa.concat_tables(self.tables).sort_by("bucket")
        ends = np.flatnonzero(np.diff(table["bucket"].to_numpy(), append=-1)) + 1
        filesystem, path = filesystem_of(f"{self.prefix}-{self.files:05d}.parquet")
        reach("staging.before")
        make_folder(self.prefix.rpartition("/")[0])
        with filesystem.open(path, "wb") as sink, pq.ParquetWriter(sink, table.schema) as writer:
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                writer.write_table(table.slice(start, end - start))
        reach("staging.after")
        self.tables, self.bytes, self.files = [], 0, self.files + 1


def read_staged(folder: str, columns: pa.Schema, bucket: int) -> pa.Table:
    """The rows of one bucket (`columns`) from every staged file of a folder, in the order of the files' names."""
    filesystem, path = filesystem_of(folder)
    files = sorted(filesystem.glob(f"{path}/*.parquet"))
    if not files:
        return columns.empty_table()
    dataset = ds.dataset(files, schema=columns, format="parquet", filesystem=filesystem)
    return dataset.to_table(filter=ds.field("bucket") == bucket)

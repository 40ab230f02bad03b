"""Web images that an ingest has downloaded and not committed yet: one that is killed downloads them no second time.

`downloads/` of the workspace holds them, a Parquet file for each batch of rows. The next commit of an ingest takes what
its rows use into `images` and removes the folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mmbatch import schema
from mmbatch.catalog import WEB_ADDRESS
from mmbatch.storage import filesystem_of, make_folder, replacing
from mmbatch.workspace import Workspace

RECORD = ["product_id", "image_uri", "image_hash"]
"""Columns that say which image a product has from which address."""


@dataclass(frozen=True)
class Downloads:
    """The downloaded images of a workspace; pickles to workers."""

    folder: str

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """Those of a workspace."""
        return cls(workspace.path("downloads"))

    def keep(self, name: str, rows: pa.Table) -> pa.Table:
        """Write the web images of staged rows to a file of that name, whole or not at all; the rows without them."""
        web = pc.and_(pc.is_valid(rows["image"]), pc.match_substring_regex(rows["image_uri"], WEB_ADDRESS))
        web = pc.fill_null(web, False)
        found = rows.filter(web).select([*RECORD, "image", "bucket"]).sort_by("bucket")
        if not found.num_rows:
            return rows
        make_folder(self.folder)
        with replacing(f"{self.folder}/{name}.parquet") as sink, pq.ParquetWriter(sink, found.schema) as writer:
            ends = np.flatnonzero(np.diff(found["bucket"].to_numpy(), append=-1)) + 1
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                writer.write_table(found.slice(start, end - start))  # a bucket is read alone
        place = rows.schema.get_field_index("image")
        return rows.set_column(place, rows.schema.field("image"), pc.if_else(web, None, rows["image"]))

    def records(self) -> Iterator[pa.Table]:
        """`RECORD` of everything that is there, a file at a time."""
        filesystem, _ = filesystem_of(self.folder)
        for file in self._files():
            yield pq.read_table(file, columns=RECORD, filesystem=filesystem)

    def images(self, bucket: int, hashes: pa.Array) -> pa.Table:
        """The images of one bucket that have these hashes: `schema.IMAGES`, some maybe more than once."""
        files = self._files() if len(hashes) else []
        if not files:
            return schema.IMAGES.empty_table()
        dataset = ds.dataset(files, schema=schema.IMAGES, format="parquet", filesystem=filesystem_of(self.folder)[0])
        return dataset.to_table(filter=(ds.field("bucket") == bucket) & ds.field("image_hash").isin(hashes))

    def remove(self) -> None:
        """Remove all of them: an ingest has taken what it uses."""
        filesystem, path = filesystem_of(self.folder)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def _files(self) -> list[str]:
        filesystem, path = filesystem_of(self.folder)
        return sorted(filesystem.glob(f"{path}/*.parquet"))

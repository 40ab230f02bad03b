"""FeatureStore: the vectors of one encoder, by product and content; what is stale is a query over hashes."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import HASH_COLUMNS
from mmbatch.schema import Modality
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace

CHUNK_CONTENTS = 512
"""Contents of a bucket that are encoded and written together: 512 decoded images are 77 MB of uint8 pixels."""


class Stale(NamedTuple):
    """What the store lacks: columns `product_id`, `content_hash`, `bucket`; one row per product."""

    compute: pa.Table
    """Contents that no stored vector belongs to, one product each, and `chunk`: the unit of work within the bucket."""
    copy: pa.Table
    """Products whose content is stored, or is computed now, under another product."""


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """The feature table of one encoder."""

    workspace: Workspace
    encoder: str
    """`name@fingerprint`."""
    modality: Modality
    width: int

    @cached_property
    def table(self) -> Table:
        """Vectors as fixed-size binary: little-endian float16 `[width]`."""
        vector = pa.field("vector", pa.binary(2 * self.width))
        columns = [vector if field.name == "vector" else field for field in schema.FEATURES]
        return self.workspace.table("features", self.encoder, schema=pa.schema(columns))

    def stale(self, keys: pa.Table) -> Stale:
        """Products of the catalog (`Catalog.keys`) without a stored vector of their present content.

        Equal content is computed once: for the first product, by bucket and id, that has it. The chunk is a hash
        of the content alone, so that a run that goes on after a crash forms the same batches as one that did not.
        """
        column = HASH_COLUMNS[self.modality]
        wanted = keys.select(["product_id", column, "bucket"]).rename_columns(["product_id", "content_hash", "bucket"])
        wanted = wanted.filter(pc.is_valid(wanted["content_hash"]))
        stored = self.table.read(["product_id", "content_hash"])
        held = pc.is_in(_pairs(wanted), value_set=_pairs(stored).combine_chunks())
        chunks = wanted.append_column("chunk", pa.array(_chunk(wanted)))
        missing = chunks.filter(pc.invert(held)).sort_by([("bucket", "ascending"), ("product_id", "ascending")])
        known = pc.is_in(missing["content_hash"], value_set=stored["content_hash"].combine_chunks())
        first = np.zeros(missing.num_rows, bool)
        first[np.unique(missing["content_hash"].to_numpy(zero_copy_only=False), return_index=True)[1]] = True
        compute = pc.and_(pc.invert(known), pa.array(first))
        return Stale(compute=missing.filter(compute), copy=missing.filter(pc.invert(compute)).drop_columns("chunk"))

    def write(self, product_ids: pa.Array, hashes: pa.Array, vectors: np.ndarray, *, bucket: int) -> FileEntry:
        """Write vectors, float16 `[N, width]`, of products of one bucket; the driver commits the file."""
        if vectors.dtype != np.float16 or vectors.shape != (len(product_ids), self.width):
            raise ValueError(
                f"{self.encoder}: vectors are {vectors.dtype} {vectors.shape},"
                f" expected float16 {(len(product_ids), self.width)}"
            )
        data = pa.py_buffer(np.ascontiguousarray(vectors.astype("<f2", copy=False)))
        vector = pa.Array.from_buffers(pa.binary(2 * self.width), len(product_ids), [None, data])
        rows = pa.table({"product_id": product_ids, "content_hash": hashes, "vector": vector})
        return self.table.write_file(rows, bucket=bucket)

    def read(self, hashes: pa.Array | pa.ChunkedArray, *, buckets: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of contents, in the order of `hashes`, out of some buckets.

        Returns:
            float16 `[N, width]`, zeros where there is none, and bool `[N]`: whether there is one.
        """
        stored = self.table.read(["content_hash", "vector"], buckets=buckets).combine_chunks()
        place = pc.index_in(hashes, value_set=stored["content_hash"].combine_chunks(), skip_nulls=True)
        present = np.asarray(pc.is_valid(place))
        vectors = np.zeros((len(present), self.width), np.float16)
        if present.any():
            vectors[present] = self._matrix(stored["vector"])[np.asarray(pc.drop_null(place))]
        return vectors, present

    def _matrix(self, column: pa.ChunkedArray) -> np.ndarray:
        array = column.combine_chunks()
        data = np.frombuffer(array.buffers()[1], dtype="<f2", offset=array.offset * 2 * self.width)
        return data[: len(array) * self.width].reshape(len(array), self.width)


def _pairs(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["product_id"], rows["content_hash"], "\x1f")


def _chunk(rows: pa.Table) -> np.ndarray:
    """Chunk number within the bucket, int64 `[N]`: by content, about `CHUNK_CONTENTS` of the bucket's products each."""
    buckets = rows["bucket"].to_numpy()
    chunks = np.maximum(1, -(-np.bincount(buckets) // CHUNK_CONTENTS))[buckets] if len(buckets) else buckets
    hashes = pd.util.hash_array(rows["content_hash"].to_numpy(zero_copy_only=False), categorize=False)
    return np.asarray(hashes % chunks.astype(np.uint64), dtype=np.int64)

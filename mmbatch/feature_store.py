"""FeatureStore: the vectors of one encoder, or the joined embeddings of one head, by product and content."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.schema import Content
from mmbatch.tables import FileEntry, Snapshot, Table
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """The feature table of one encoder or head."""

    workspace: Workspace
    encoder: str
    """`name@fingerprint`."""
    modality: Content
    width: int
    at: Snapshot | None = None
    """Version of the table that `read` reads, whatever width its opener took it for; None: the latest."""

    @cached_property
    def table(self) -> Table:
        """Vectors as fixed-size binary: little-endian float16 `[width]`."""
        vector = pa.field("vector", pa.binary(2 * self.width))
        columns = [vector if field.name == "vector" else field for field in schema.FEATURES]
        return self.workspace.table("features", self.encoder, schema=pa.schema(columns))

    def write(self, product_ids: pa.Array, hashes: pa.Array, vectors: np.ndarray, *, bucket: int) -> FileEntry:
        """Write vectors, float16 `[N, width]`, of products of one bucket; the driver commits the file."""
        if vectors.dtype != np.float16 or vectors.shape != (len(product_ids), self.width):
            raise ValueError(
                f"{self.encoder}: vectors are {vectors.dtype} {vectors.shape},"
                f" expected float16 {(len(product_ids), self.width)}"
            )
        rows = pa.table({"product_id": product_ids, "content_hash": hashes, "vector": self.vector_array(vectors)})
        return self.table.write_file(rows, bucket=bucket)

    def read(self, hashes: pa.Array | pa.ChunkedArray, *, buckets: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of contents, in the order of `hashes`, out of some buckets.

        Returns:
            float16 `[N, width]`, zeros where there is none, and bool `[N]`: whether there is one.
        """
        held = replace(self.at, table=self.table) if self.at else self.table.snapshot()
        stored = held.read(["content_hash", "vector"], buckets=buckets)
        place = pc.index_in(hashes, value_set=stored["content_hash"].combine_chunks(), skip_nulls=True)
        present = np.asarray(pc.is_valid(place))
        vectors = np.empty((len(present), self.width), np.float16)
        if present.any():
            rows = np.asarray(pc.fill_null(place, 0), np.int64)
            np.take(self.matrix(stored["vector"]), rows, axis=0, out=vectors, mode="clip")  # "raise" would buffer
        vectors[~present] = 0
        return vectors, present

    def vector_array(self, vectors: np.ndarray) -> pa.Array:
        """Vectors, float16 `[N, width]`, as the table's column, without a copy."""
        data = pa.py_buffer(np.ascontiguousarray(vectors.astype("<f2", copy=False)))
        return pa.Array.from_buffers(pa.binary(2 * self.width), len(vectors), [None, data])

    def matrix(self, column: pa.ChunkedArray) -> np.ndarray:
        """The table's column as vectors, float16 `[N, width]`."""
        array = column.combine_chunks()
        data = np.frombuffer(array.buffers()[1], dtype="<f2", offset=array.offset * 2 * self.width)
        return data[: len(array) * self.width].reshape(len(array), self.width)


def require_features(workspace: Workspace, encoders: Collection[str]) -> None:
    """Refuse to go on without the features of an encoder (`name@fingerprint`): its products would seem to lack them.

    One that nothing in the catalog is for may have none, where there are features of others.

    Raises:
        InputError: features of another fingerprint of its name are stored in its place, or none of any of them.
    """
    stored = {uri.rpartition("/")[2] for uri in workspace.tables() if uri.startswith(workspace.path("features", ""))}
    for encoder in sorted(set(encoders) - stored):
        others = sorted(name for name in stored if name.split("@")[0] == encoder.split("@")[0])
        if others or not stored & set(encoders):
            found = ", ".join(others) or "none of any encoder"
            raise InputError(
                f"{workspace.path('features', encoder)}: not there, found {found}: run jobs.extract_features first"
            )

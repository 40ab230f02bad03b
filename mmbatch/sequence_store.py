"""SequenceStore: the sequences of one encoder, token states or patches, by product and content.

A product takes length x width x 2 bytes: 64 tokens of a MiniLM 384 wide 49,152 bytes, the 7 x 7 patches of an
EfficientNet-Lite0 1,280 wide 125,440 bytes. A million products are 49 GB and 125 GB, 64 and 49 times their vectors. So
only the labelled products that are drawn to train a head are kept here, and never what is predicted: there the states
go from the encoders straight into the head (`mmbatch.fusion.fused`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.sequences import Sequences, offsets_of
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace


def sequences_table(workspace: Workspace, encoder: str) -> Table:
    """The table of one encoder, `name@fingerprint`."""
    return workspace.table("sequences", encoder, schema=schema.SEQUENCES)


@dataclass(frozen=True, kw_only=True)
class SequenceStore:
    """The sequence table of one encoder, beside its `FeatureStore`."""

    workspace: Workspace
    encoder: str
    """`name@fingerprint`."""
    width: int
    """Numbers in a state: the encoder's `sequence_width`."""

    @cached_property
    def table(self) -> Table:
        """States as binary of varying size: little-endian float16 `[length, width]`."""
        return sequences_table(self.workspace, self.encoder)

    def write(self, product_ids: pa.Array, hashes: pa.Array, sequences: Sequences, *, bucket: int) -> FileEntry:
        """Write the sequences of N products of one bucket; the driver commits the file.

        Raises `ValueError` where they are not float16, not N, not of this width, or one is empty.
        """
        states, lengths = sequences.states, sequences.lengths
        if states.dtype != np.float16 or states.shape[1:] != (self.width,) or len(sequences) != len(product_ids):
            raise ValueError(
                f"{self.encoder}: found {len(sequences)} sequences of {states.dtype} {list(states.shape)},"
                f" expected {len(product_ids)} of float16 [T, {self.width}]"
            )
        if not lengths.all():
            raise ValueError(f"{self.encoder}: sequences {np.flatnonzero(lengths == 0).tolist()} are empty")
        columns = {"product_id": product_ids, "content_hash": hashes, "length": pa.array(lengths, pa.int32())}
        return self.table.write_file(pa.table(columns | {"states": self._column(sequences)}), bucket=bucket)

    def read(self, hashes: pa.Array | pa.ChunkedArray, *, buckets: Collection[int]) -> Sequences:
        """Sequences of contents, in the order of `hashes`, out of some buckets; empty where there is none.

        Raises `InputError` where states that are stored are not as long as the table says.
        """
        wanted = pc.field("content_hash").isin(pc.unique(hashes.drop_null()))
        stored = self.table.read(["content_hash", "length", "states"], buckets=buckets, filters=wanted)
        place = pc.index_in(hashes, value_set=stored["content_hash"].combine_chunks(), skip_nulls=True)
        found = self._sequences(stored).take(np.asarray(place.drop_null(), np.int64))
        lengths = np.zeros(len(hashes), np.int64)
        lengths[np.asarray(pc.is_valid(place))] = found.lengths
        return Sequences(found.states, offsets_of(lengths))

    @property
    def _state_bytes(self) -> int:
        return 2 * self.width

    def _column(self, sequences: Sequences) -> pa.Array:
        """Sequences as the table's column, without a copy."""
        states = np.ascontiguousarray(sequences.states.astype("<f2", copy=False))
        ends = pa.py_buffer(sequences.offsets * self._state_bytes)
        return pa.Array.from_buffers(pa.large_binary(), len(sequences), [None, ends, pa.py_buffer(states)])

    def _sequences(self, stored: pa.Table) -> Sequences:
        """The table's column as sequences, without a copy where it is in one piece."""
        column, lengths = stored["states"].combine_chunks(), stored["length"].to_numpy()
        offsets = offsets_of(lengths)
        wrong = np.flatnonzero(pc.binary_length(column).to_numpy() != np.diff(offsets) * self._state_bytes)
        if len(wrong):
            raise InputError(
                f"{self.table.uri}: found {pc.binary_length(column)[wrong[0]]} bytes of states in a row of length"
                f" {lengths[wrong[0]]}, expected {self._state_bytes} each ({self.width} float16)"
            )
        _, ends, data = column.buffers()
        first = int(np.frombuffer(ends, np.int64)[column.offset]) if len(column) else 0
        numbers = np.frombuffer(data or b"", "<f2", count=offsets[-1] * self.width, offset=first)
        return Sequences(numbers.reshape(-1, self.width), offsets)

"""Quarantine: what is rejected at present, each thing once, with a reason code and a message for a person."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import digest
from mmbatch.schema import MODALITIES, Modality, bucket_of
from mmbatch.tables import FileEntry, Snapshot, Table
from mmbatch.workspace import Workspace

DUPLICATE = "duplicate_id"

_IDENTITY = ["stage", "source", "position", "product_id", "modality", "reason", "message"]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which raw rows a run reads, and so of which earlier entries it says whether they still hold."""

    files: tuple[str, ...] = ()
    """URIs of files that are read whole."""
    snapshot: bool = False
    """The files name the whole catalog: a row of any other file, and a product they do not name, is gone."""
    feed: bool = False
    """The files are a feed of changes, in order: of the rows of one id the last counts, and earlier ones are settled by
    it."""
    rows: pa.Table | None = None
    """Ingest-stage entries (`schema.QUARANTINE`) whose rows, and no others, are read again; then `files` is empty."""

    def positions(self, file: str) -> pa.Array | None:
        """Rows of a file that are read, int64, each once; None: all."""
        if self.rows is None:
            return None
        of_file = self.rows.filter(pc.equal(self.rows["source"], file))
        return pc.unique(of_file["position"])

    def covers(self, entries: pa.Table) -> pa.ChunkedArray:
        """Whether the raw row of each entry is one that the run reads, or that is no part of the catalog any more."""
        if self.snapshot:
            return pa.chunked_array([pa.repeat(True, entries.num_rows)])
        if self.rows is None:
            return pc.is_in(entries["source"], value_set=pa.array(self.files, pa.string()))
        return pc.is_in(keys_of(entries), value_set=keys_of(self.rows).combine_chunks())


def quarantine_table(workspace: Workspace) -> Table:
    """The workspace's quarantine; it need not exist yet."""
    return workspace.table("quarantine", schema=schema.QUARANTINE)


def entries_for(rejects: pa.Table, *, stage: str, source: str, run_id: str, buckets: int) -> pa.Table:
    """Quarantine rows (`schema.QUARANTINE`) for rejects: `position`, `product_id`, `modality`, `reason`, `message`.

    The bucket is the product's; a row without an id goes by its position, so that a source with no usable id at all
    still spreads over the buckets.
    """
    rows = rejects.append_column("stage", pa.repeat(stage, len(rejects)).cast(pa.string()))
    rows = rows.append_column("source", pa.repeat(source, len(rejects)).cast(pa.string()))
    joined = pc.binary_join_element_wise(
        *(rows[name].cast(pa.string()) for name in _IDENTITY), "\x1e", null_handling="replace", null_replacement="\x00"
    )
    key = pc.coalesce(rows["product_id"], rows["position"].cast(pa.string()), rows["message"])
    rows = rows.append_column(
        "quarantine_id", pa.array([digest(text.encode()) for text in joined.to_pylist()], pa.string())
    )
    rows = rows.append_column("run_id", pa.repeat(run_id, len(rejects)).cast(pa.string()))
    rows = rows.append_column("bucket", pa.array(bucket_of(key, buckets)))
    return rows.select(schema.QUARANTINE.names).cast(schema.QUARANTINE)


def keys_of(rows: pa.Table, *more: str) -> pa.ChunkedArray:
    """One string per row that names its raw row (`source`, `position`), joined with further columns."""
    columns = [rows[name].cast(pa.string()) for name in ("source", "position", *more)]
    return pc.binary_join_element_wise(*columns, "\x1f", null_handling="replace", null_replacement="\x00")


def rejected_parts(quarantine: Snapshot, bucket: int) -> dict[Modality, pa.Array]:
    """Ids of the products of a bucket of which this modality is in quarantine, at any stage."""
    parts = quarantine.read(
        ["product_id", "modality"], buckets=[bucket], filters=pc.field("modality").isin(list(MODALITIES))
    )
    return {
        modality: pc.unique(parts.filter(pc.equal(parts["modality"], modality))["product_id"])
        for modality in MODALITIES
    }


def settled(held: pa.Table, found: pa.Table, *, scope: Scope, accepted: pa.Array, removed: pa.Array) -> pa.Array:
    """Which entries of one bucket do not hold any more, bool `[N]`, after a run that found other ones.

    A product that a source names again has what this run found, and nothing else: all its earlier entries go when its
    row was accepted, those of its whole row when it was rejected once more (its stored row is the earlier one, whose
    bad image or label stays named). So do entries of rows that were read and not found bad again, and all of removed
    products. When only some rows are read again, a duplicate that was not among them is one still.

    Args:
        held: `schema.QUARANTINE` rows `[N]` of the bucket.
        found: What this run found in the bucket, `schema.QUARANTINE`.
        scope: What the run read.
        accepted: Ids of the products whose rows were accepted.
        removed: Ids of the products that left the catalog.
    """
    rejected = found.filter(pc.is_null(found["modality"]))["product_id"].drop_null().combine_chunks()
    stored = pc.is_in(held["product_id"], value_set=accepted)
    refused = pc.and_not(pc.is_in(held["product_id"], value_set=rejected), stored)
    whole = pc.is_null(held["modality"])
    superseded = pc.or_(stored, pc.and_(refused, whole)) if scope.rows is None else pc.and_not(stored, whole)
    covered = pc.and_not(scope.covers(held), pc.and_not(refused, whole))
    again = pc.is_in(held["quarantine_id"], value_set=found["quarantine_id"].combine_chunks())
    gone = pc.and_not(pc.and_(pc.equal(held["stage"], "ingest"), pc.or_(superseded, covered)), again)
    return pc.or_(gone, pc.is_in(held["product_id"], value_set=removed)).combine_chunks()


def write_changes(
    table: Table, found: pa.Table, *, bucket: int, scope: Scope, accepted: pa.Array, removed: pa.Array
) -> tuple[list[FileEntry], list[FileEntry]]:
    """Write what an ingest found in one bucket, without what does not hold any more (`settled`).

    Returns:
        Files to add and files to remove, for the driver to commit; none of either when nothing has changed.
    """
    before = table.files([bucket])
    held = table.read_files(before)
    gone = settled(held, found, scope=scope, accepted=accepted, removed=removed)
    changed = bool(pc.any(gone).as_py())
    new = found.filter(pc.invert(pc.is_in(found["quarantine_id"], value_set=held["quarantine_id"].combine_chunks())))
    rows = pa.concat_tables([held.filter(pc.invert(gone)), new]) if changed else new
    return ([table.write_file(rows, bucket=bucket)] if rows.num_rows else []), before if changed else []

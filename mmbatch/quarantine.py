"""Quarantine: every rejected row, once, with a reason code and a message for a person."""

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.catalog import digest
from mmbatch.schema import bucket_of
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace

_IDENTITY = ["stage", "source", "position", "product_id", "modality", "reason", "message"]


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


def write_new(table: Table, rows: pa.Table, *, bucket: int) -> list[FileEntry]:
    """Write the rows of one bucket that quarantine does not hold yet; the driver commits the file."""
    held = table.read(["quarantine_id"], buckets=[bucket])["quarantine_id"].combine_chunks()
    new = rows.filter(pc.invert(pc.is_in(rows["quarantine_id"], value_set=held)))
    return [table.write_file(new, bucket=bucket)] if new.num_rows else []

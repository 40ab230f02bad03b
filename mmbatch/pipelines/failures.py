"""What an extraction could not encode, in quarantine: after a run, exactly what still cannot be encoded."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.quarantine import entries_for, quarantine_table
from mmbatch.workspace import Workspace

_REJECT = pa.schema([(name, pa.string()) for name in ("product_id", "modality", "reason", "message")])


def replace_failures(
    workspace: Workspace, failures: Sequence[Mapping[str, Any]], *, modalities: Collection[str], run_id: str
) -> None:
    """Bring the extraction's quarantine entries of these modalities to `failures`, in one commit.

    Every stale content was attempted, so an earlier entry that is not among them stands for something that works now.
    """
    table = quarantine_table(workspace)
    snapshot = table.snapshot()
    rejects = pa.Table.from_pylist([dict(failure) for failure in failures], schema=_REJECT)
    rejects = rejects.append_column("position", pa.nulls(len(rejects), pa.int64()))
    buckets = workspace.settings.buckets
    found = entries_for(rejects, stage="extract", source="catalog", run_id=run_id, buckets=buckets)
    ours = (pc.field("stage") == "extract") & pc.field("modality").isin(sorted(modalities))
    added, removed = [], []
    for bucket in range(buckets):
        before = snapshot.of([bucket])
        held = snapshot.read(["quarantine_id"], buckets=[bucket], filters=ours)["quarantine_id"]
        new = found.filter(pc.equal(found["bucket"], bucket))
        new = new.take(pc.index_in(pc.unique(new["quarantine_id"]), value_set=new["quarantine_id"].combine_chunks()))
        if set(held.to_pylist()) != set(new["quarantine_id"].to_pylist()):
            again = new.filter(pc.invert(pc.is_in(new["quarantine_id"], value_set=held.combine_chunks())))
            kept = snapshot.read(
                buckets=[bucket], filters=~ours | pc.field("quarantine_id").isin(new["quarantine_id"].combine_chunks())
            )
            rows = pa.concat_tables([kept, again])
            added += [table.write_file(rows, bucket=bucket)] if rows.num_rows else []
            removed += before
    table.replace(added, removed, app_id=f"{run_id}-extract", read_version=snapshot.version)

"""What a person sees of quarantine: which entries match, how many of each kind, the newest, all of them as a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mmbatch import schema
from mmbatch.file_writers import table_file
from mmbatch.quarantine import quarantine_table
from mmbatch.workspace import Workspace

EXPORTED = pa.schema([field for field in schema.QUARANTINE if field.name != "bucket"])
"""Columns of an exported file: all but where the entry is stored."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which entries are meant; the default means all."""

    reasons: tuple[str, ...] = ()
    """Reason codes; empty: any."""
    source: str | None = None
    """URI of a raw file, or of a folder of them; None: any."""
    stage: str | None = None
    """`ingest` or `extract`; None: both."""

    def expression(self) -> ds.Expression | None:
        """The entries that match, as a filter; None: all do."""
        parts: list[ds.Expression] = []
        if self.reasons:
            parts.append(pc.field("reason").isin(list(self.reasons)))
        if self.source is not None:
            below = pc.starts_with(pc.field("source"), pattern=f"{self.source.rstrip('/')}/")
            parts.append((pc.field("source") == self.source) | below)
        if self.stage is not None:
            parts.append(pc.field("stage") == self.stage)
        found: ds.Expression | None = None
        for part in parts:
            found = part if found is None else found & part
        return found


def select(workspace: Workspace, selection: Selection, columns: Sequence[str] | None = None) -> pa.Table:
    """The entries that match."""
    return quarantine_table(workspace).read(columns, filters=selection.expression())


def counts(entries: pa.Table) -> list[dict[str, Any]]:
    """How many `entries` there are of each `stage`, `reason` and `modality`, most first."""
    names = ["stage", "reason", "modality"]
    counted = entries.group_by(names).aggregate([([], "count_all")]).rename_columns([*names, "entries"])
    order = [("entries", "descending"), ("stage", "ascending"), ("reason", "ascending"), ("modality", "ascending")]
    rows: list[dict[str, Any]] = counted.sort_by(order).to_pylist()
    return rows


def newest(entries: pa.Table, count: int) -> list[dict[str, Any]]:
    """The last entries that came, as plain values."""
    order = [("run_id", "descending"), ("source", "ascending"), ("position", "ascending")]
    rows: list[dict[str, Any]] = entries.sort_by(order).slice(0, count).select(EXPORTED.names).to_pylist()
    return rows


def export(workspace: Workspace, selection: Selection, file: str) -> int:
    """Write the entries that match (`EXPORTED`) to a file (`file_writers.table_file`); returns how many."""
    table = quarantine_table(workspace).snapshot()
    written = 0
    with table_file(file, EXPORTED, named=f"--export {file}") as append:
        for bucket in range(workspace.settings.buckets):
            rows = table.read(EXPORTED.names, buckets=[bucket], filters=selection.expression())
            append(rows)
            written += rows.num_rows
    return written

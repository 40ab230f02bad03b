"""What a person sees of quarantine: which entries match, how many of each kind, the newest, all of them as a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.quarantine import quarantine_table
from mmbatch.storage import filesystem_of
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


def export_format(file: str) -> str:
    """The ending that says how a file is written; `InputError` when it says nothing."""
    suffix = PurePosixPath(file).suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(f"--export {file}: expected a name that ends in {', '.join(_WRITERS)}")
    return suffix


def export(workspace: Workspace, selection: Selection, file: str) -> int:
    """Write the entries that match (`EXPORTED`) to a local file or an object, bucket by bucket; returns how many."""
    write = _WRITERS[export_format(file)]
    filesystem, path = filesystem_of(file)
    table = quarantine_table(workspace).snapshot()
    parts = (
        table.read(EXPORTED.names, buckets=[bucket], filters=selection.expression())
        for bucket in range(workspace.settings.buckets)
    )
    try:
        with filesystem.open(path, "wb") as sink:
            return sum(write(sink, parts))
    except OSError as error:
        raise InputError(f"--export {file}: cannot be written: {error.strerror or error}") from error


def _write_csv(sink: IO[bytes], parts: Iterator[pa.Table]) -> Iterator[int]:
    with pacsv.CSVWriter(sink, EXPORTED) as writer:
        for part in parts:
            writer.write_table(part)
            yield part.num_rows


def _write_parquet(sink: IO[bytes], parts: Iterator[pa.Table]) -> Iterator[int]:
    with pq.ParquetWriter(sink, EXPORTED) as writer:
        for part in parts:
            writer.write_table(part)
            yield part.num_rows


def _write_jsonl(sink: IO[bytes], parts: Iterator[pa.Table]) -> Iterator[int]:
    for part in parts:
        for row in part.to_pylist():
            sink.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        yield part.num_rows


_WRITERS: dict[str, Callable[[IO[bytes], Iterator[pa.Table]], Iterator[int]]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
}

"""The run ledger: what each finished run did, from what, in how long."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.errors import CountMismatchError
from mmbatch.progress import speak_for
from mmbatch.tables import Table
from mmbatch.workspace import Workspace


def new_run_id() -> str:
    """Sortable by time and unique: `20260131T020000-1a2b3c`."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"


@dataclass(kw_only=True)
class Run:
    """One job's entry in the ledger while it is being written."""

    workspace: Workspace
    job: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = field(default_factory=new_run_id)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.speak()

    def speak(self) -> None:
        """Lines that are said from now on are about this run."""
        speak_for(self.run_id, self.job)

    def entry(self, counts: Mapping[str, Any], versions: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The entry as it stands now, as a row of `schema.RUNS`."""
        return {
            "run_id": self.run_id,
            "job": self.job,
            "started": self.started,
            "seconds": time.monotonic() - self.clock,
            "settings": json.dumps(dict(self.settings), sort_keys=True),
            "counts": json.dumps(dict(counts)),
            "versions": json.dumps(dict(versions or {})),
            "bucket": 0,
        }

    def finish(self, counts: Mapping[str, Any], versions: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Append the entry and return it as plain values."""
        entry = self.entry(counts, versions)
        record(self.workspace, entry)
        return plain(entry)


def plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a job returns of its entry in the ledger (`Run.entry`)."""
    return {name: entry[name] for name in ("run_id", "job", "seconds")} | {"counts": json.loads(entry["counts"])}


def record(workspace: Workspace, entry: Mapping[str, Any]) -> None:
    """Append an entry (`Run.entry`) to the ledger, unless it is there."""
    table = runs_table(workspace)
    rows = pa.Table.from_pylist([dict(entry)], schema=table.schema)
    table.commit([table.write_file(rows, bucket=0)], app_id=entry["run_id"])


def finished_runs(workspace: Workspace, job: str) -> list[dict[str, Any]]:
    """The finished runs of a job, newest first, their JSON columns parsed."""
    rows = runs_table(workspace).read(filters=pc.field("job") == job).sort_by([("started", "descending")])
    return [_parsed(entry) for entry in rows.to_pylist()]


def publications(workspace: Workspace) -> list[dict[str, Any]]:
    """The runs that published predictions, newest first: `counts.published` has the versions after and before.

    A refused night, whose entry says what it would have published, is none of them.
    """
    published = pc.match_substring(pc.field("counts"), '"published": {')
    rows = runs_table(workspace).read(filters=published).sort_by([("started", "descending")])
    found = [_parsed(entry) for entry in rows.to_pylist()]
    return [entry for entry in found if entry["counts"].get("state") != "refused"]


def last_run(workspace: Workspace, job: str) -> dict[str, Any] | None:
    """The newest finished run of a job; None when there is none."""
    return next(iter(finished_runs(workspace, job)), None)


def _parsed(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {name: json.loads(entry[name]) for name in ("settings", "counts", "versions")}


def tie_out(stage: str, rows_in: int, outcomes: Mapping[str, int]) -> None:
    """Raise `CountMismatchError` unless every row that went in is accounted for by exactly one outcome."""
    if rows_in != sum(outcomes.values()):
        raise CountMismatchError(f"{stage}: {rows_in:,} rows in, but {dict(outcomes)} makes {sum(outcomes.values()):,}")


def runs_table(workspace: Workspace) -> Table:
    """The ledger; it need not exist yet."""
    return workspace.table("runs", schema=pa.schema([*schema.RUNS, ("bucket", pa.int32())]))

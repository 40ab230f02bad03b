"""What other systems are handed: all published predictions, or the net changes since a run, as one file.

Both are read bucket by bucket from one version of their table, so that a publication meanwhile mixes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.file_writers import ending_of, table_file
from mmbatch.predictions import Predictions
from mmbatch.progress import Progress
from mmbatch.runs import runs_table
from mmbatch.storage import filesystem_of, is_local
from mmbatch.tables import Snapshot
from mmbatch.workspace import Workspace, normalise_uri

PREDICTIONS = pa.schema([field for field in schema.PREDICTIONS if field.name != "bucket"])
CHANGES = pa.schema([field for field in schema.CHANGES if field.name != "bucket"])
"""Columns of an exported file: all but where the row is stored."""

_SHOWN = 5  # runs that a message names


class LedgerRun(NamedTuple):
    """A run that the ledger names."""

    run_id: str
    job: str
    ended: datetime


@dataclass(frozen=True, kw_only=True)
class Export:
    """Rows to be exported, of one version of a table."""

    snapshot: Snapshot
    buckets: int
    schema: pa.Schema
    """Columns of the file."""
    rows_of: Callable[[int], pa.Table]
    """Reads one bucket; may have more columns than the file."""
    unit: str
    """What a row of the table is: `predictions`, `changes`."""
    until: str | None
    """The newest run in the ledger when the version was taken: changes since it are all that the file has not; None:
    there is none. A change that was published at that very moment may be both in the file and among those."""

    def stored(self) -> int:
        """Rows of the table, from its log alone."""
        return sum(entry.rows for entry in self.snapshot.entries)

    def parts(self) -> Iterator[pa.Table]:
        """The rows, bucket by bucket."""
        progress = Progress("export", self.stored(), self.unit)
        for bucket in range(self.buckets):
            yield self.rows_of(bucket).select(self.schema.names)
            progress.advance(sum(entry.rows for entry in self.snapshot.of([bucket])))

    def rows(self) -> int:
        """How many rows the file will have, by reading them."""
        return sum(part.num_rows for part in self.parts())

    def write(self, out: str) -> int:
        """Write the rows to a file (`file_writers.table_file`), which is there whole or not at all; returns how many.

        Raises:
            InputError: the file cannot be written.
        """
        written = 0
        with table_file(out, self.schema, named=f"--out {out}") as append:
            for part in self.parts():
                if part.num_rows:
                    append(part)
                    written += part.num_rows
        return written


def published(workspace: Workspace, columns: Sequence[str] = ()) -> Export:
    """All published predictions; `columns` as in `PREDICTIONS`, all by default.

    Raises:
        InputError: nothing is published, or a column is not there.
    """
    chosen, runs = _chosen(PREDICTIONS, columns), _ledger(workspace)
    snapshot = Predictions(workspace=workspace).table.snapshot()
    if snapshot.version < 0:
        raise InputError(f"--workspace {workspace.uri}: nothing is published there yet; `jobs.predict` publishes")
    return Export(
        snapshot=snapshot,
        buckets=workspace.settings.buckets,
        schema=chosen,
        rows_of=lambda bucket: snapshot.read(chosen.names, buckets=[bucket]),
        unit="predictions",
        until=runs[-1].run_id if runs else None,
    )


def changed_since(workspace: Workspace, run_id: str, columns: Sequence[str] = ()) -> Export:
    """The net changes that were published after a run (`net_changes`); `columns` as in `CHANGES`, all by default.

    After a run is what a run published that ended later. Runs of a workspace follow or contain each other, so this
    counts rightly whether the run that is named, or the one that published, was a stage of another. A run that
    published and is not in the ledger yet, as it was killed or is at it, is later than all of the ledger.

    Raises:
        InputError: the ledger does not name the run, or a column is not there.
    """
    chosen, runs = _chosen(CHANGES, columns), _ledger(workspace)
    ids = [run.run_id for run in runs]
    if run_id not in ids:
        last = ", ".join(f"{run.run_id} ({run.job})" for run in reversed(runs[-_SHOWN:]))
        raise InputError(
            f"--changes-since {run_id}: found no such run in the ledger of {workspace.uri}, expected one of its runs;"
            f" the last ones are {last or 'none: it is empty'}"
        )
    order = pa.array(ids, pa.string())
    later = ~pc.field("run_id").isin(order[: ids.index(run_id) + 1])
    snapshot = workspace.table("changes", schema=schema.CHANGES).snapshot()
    return Export(
        snapshot=snapshot,
        buckets=workspace.settings.buckets,
        schema=chosen,
        rows_of=lambda bucket: net_changes(snapshot.read(CHANGES.names, buckets=[bucket], filters=later), order),
        unit="changes",
        until=ids[-1],
    )


def net_changes(changes: pa.Table, runs: pa.Array) -> pa.Table:
    """One row per product from the changes of several runs: what was before the first of them and is after the last.

    A product that came back to what it was (category, what was decided, and whether there is a prediction at all) has
    none. `reason` is `new` for a product that was not there before and is now, else that of its last change;
    `differing` joins those of all its changes, sorted; `run_id` is the run of the last.

    Args:
        changes: `CHANGES`, in any order.
        runs: ids of runs, string, in the order in which they ended; one that is not among them counts as later.

    Returns:
        `CHANGES`, by product id.
    """
    place = pc.fill_null(pc.index_in(changes["run_id"], value_set=runs), len(runs))
    keys = [("product_id", "ascending"), ("place", "ascending"), ("run_id", "ascending")]
    changes = changes.append_column("place", place).sort_by(keys)
    starts = _starts(changes["product_id"])
    first, last = (changes.take(pa.array(rows)) for rows in (starts[:-1], starts[1:] - 1))
    columns = {name: (first if name.endswith("_before") else last)[name] for name in CHANGES.names}
    arrived = pc.and_(pc.equal(first["reason"], "new"), pc.not_equal(last["reason"], "removed"))
    columns["reason"] = pc.if_else(arrived, "new", last["reason"])
    columns["differing"] = _joined_lists(changes["differing"].combine_chunks(), starts)
    net = pa.table(columns, schema=CHANGES)
    return net.filter(pc.invert(_came_back(net)))


def check_out(workspace: Workspace, out: str) -> None:
    """Raise `InputError` where a file cannot be exported to: an unknown ending, a folder, a place in the workspace."""
    ending_of(out, named=f"--out {out}")
    filesystem, path = filesystem_of(out)
    if filesystem.isdir(path):
        raise InputError(f"--out {out}: found a folder, expected the name of a file")
    if f"{_place(out)}/".startswith(f"{_place(workspace.uri)}/"):
        raise InputError(
            f"--out {out}: found a place inside the workspace {workspace.uri}, expected one outside: everything in"
            " there belongs to the jobs"
        )


def _place(uri: str) -> str:
    """Where a URI leads, links followed, in one spelling."""
    if is_local(uri):
        return str(Path(normalise_uri(uri)).resolve())
    filesystem, path = filesystem_of(uri)
    return str(filesystem.unstrip_protocol(path)).rstrip("/")


def _chosen(known: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    unknown = [name for name in columns if name not in known.names]
    if unknown or len(set(columns)) < len(columns):
        raise InputError(f"--columns {' '.join(columns)}: expected each at most once, of {', '.join(known.names)}")
    return pa.schema([known.field(name) for name in columns]) if columns else known


def _ledger(workspace: Workspace) -> list[LedgerRun]:
    """The runs of the ledger in the order in which they ended."""
    rows = runs_table(workspace).read(["run_id", "job", "started", "seconds"]).to_pylist()
    runs = [LedgerRun(row["run_id"], row["job"], row["started"] + timedelta(seconds=row["seconds"])) for row in rows]
    return sorted(runs, key=lambda run: (run.ended, run.run_id))


def _starts(sorted_ids: pa.ChunkedArray) -> np.ndarray:
    """Row at which each product begins, `[products]`, and the number of rows."""
    codes = sorted_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    return np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))


def _joined_lists(lists: pa.Array, starts: np.ndarray) -> pa.Array:
    """Of each run of rows from one start to the next the values of its lists, sorted, each once: list<string>."""
    rows = pc.list_parent_indices(lists).to_numpy()
    owner = np.searchsorted(starts, rows, side="right") - 1
    pairs = pa.table({"owner": owner, "value": lists.flatten()}).group_by(["owner", "value"]).aggregate([])
    pairs = pairs.sort_by([("owner", "ascending"), ("value", "ascending")])
    offsets = np.searchsorted(pairs["owner"].to_numpy(), np.arange(len(starts)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pairs["value"].combine_chunks())


def _came_back(net: pa.Table) -> pa.ChunkedArray:
    """Whether each product is what it was."""
    same = pc.equal(pc.is_null(net["confidence_before"]), pc.is_null(net["confidence_after"]))
    for name in ("category", "decided"):
        before, after = net[f"{name}_before"], net[f"{name}_after"]
        both_null = pc.and_(pc.is_null(before), pc.is_null(after))
        same = pc.and_(same, pc.or_(both_null, pc.fill_null(pc.equal(before, after), False)))
    return same

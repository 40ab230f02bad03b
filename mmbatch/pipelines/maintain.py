"""Maintenance: many small files -> few, what the catalog does not refer to any more -> gone, old files -> deleted.

A crash anywhere leaves every table readable with the same rows: new files are written first, one commit swaps them for
the old ones, and the old ones are deleted when no version of the retention window has them.

Rows leave three kinds of tables only: `features` and `sequences`, where a product has got another content or is
removed, and `images`. Splits of removed products stay, so that no split is ever drawn twice. Features and sequences of
an encoder that no stored model names, and tables that this module does not know, are reported and left alone: deleting
those is a person's decision.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.changes import Changes
from mmbatch.contents import Contents, OfModality, PossiblyTogether
from mmbatch.corrections import Corrections
from mmbatch.epochs import tidy
from mmbatch.errors import LostRaceError
from mmbatch.feature_store import FeatureStore
from mmbatch.joined import joined_store
from mmbatch.models import list_models, reads_sequences
from mmbatch.pipelines.cluster import remove_folder, start_ray, stream
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.leftovers import old_folders
from mmbatch.pipelines.resources import COMPACT
from mmbatch.predictions import Predictions
from mmbatch.progress import Progress, say
from mmbatch.quarantine import quarantine_table
from mmbatch.runs import Run, new_run_id, runs_table, tie_out
from mmbatch.schema import MODALITIES
from mmbatch.sequence_store import sequences_table
from mmbatch.sweep import trials_table
from mmbatch.tables import FileEntry, Snapshot, Table
from mmbatch.workspace import Workspace

TARGET_BYTES = 128 << 20
"""Of a file after compaction: reading it takes a second from an object store, against tens of milliseconds to open
it; and a worker holds the rows, their sorted copy and the encoded file, three times this."""

LARGEST_BYTES = 1 << 30
"""A larger file is left as it is: a worker would hold three times this, and Arrow's offsets end at 2 GiB."""

FILES_WORTH_JOINING = 4
"""Small files of a bucket that are rewritten as one. A nightly run adds at most one file to a bucket, so that rows are
written again every fourth night at most, and a reader opens at most three files beside the full ones."""

SHARE_WORTH_DROPPING = 0.05
"""Of a bucket's rows: below, rewriting it costs twenty times what it frees, and readers do not feel the difference."""

COMMIT_UNITS = 64
"""Rewritten files per commit: 8 GB that a crash can cost."""

COMMITS_WORTH_A_CHECKPOINT = 10
"""Commits that a reader fetches one by one to open a table: a third of a second from an object store."""

_READERS = 4  # buckets planned at the same time: their files' latency is what planning waits for


@dataclass(frozen=True, kw_only=True)
class _Needs:
    """What a table must keep: the contents that the catalog's products have."""

    contents: Contents
    content_column: str
    """Of the table."""

    def kept(self, held: Snapshot, bucket: int) -> np.ndarray:
        """Which rows of a bucket stay, bool `[N]`, in the order of its files.

        A product's row of its present content; and, where a product has none yet, one row of that content under
        another product, which is then copied instead of computed.
        """
        by_product = "product_id" in held.table.schema.names
        products = self.contents.read(bucket)
        rows = held.read(["product_id"] * by_product + [self.content_column], buckets=[bucket])
        contents = rows[self.content_column]
        wanted = pc.is_in(contents, value_set=products["content_hash"].combine_chunks(), skip_nulls=True)
        kept = np.asarray(wanted)
        if by_product:
            own = np.asarray(pc.is_in(_pairs(rows), value_set=_pairs(products).combine_chunks()))
            lent = (
                kept & ~own & ~np.asarray(pc.is_in(contents, value_set=contents.filter(pa.array(own)).combine_chunks()))
            )
            first = np.unique(contents.to_numpy(zero_copy_only=False), return_index=True)[1]
            kept = own | (lent & np.isin(np.arange(len(lent)), first))
        return kept


@dataclass(frozen=True, kw_only=True)
class _Rewrite:
    """Files of one bucket that become one file."""

    files: tuple[FileEntry, ...]
    dropped: int
    """Rows among them that nothing refers to."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be done to one table."""

    name: str
    at: Snapshot
    needs: _Needs | None
    """None: every row stays."""
    rewrites: tuple[_Rewrite, ...]
    expired: dict[str, int]
    """Path -> bytes of files that no version of the retention window has."""
    loose_commits: int

    @property
    def checkpoint(self) -> bool:
        """Whether the table's log is to be joined into one file."""
        return self.loose_commits >= COMMITS_WORTH_A_CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that maintenance would do to a workspace."""

    tables: tuple[_Plan, ...]
    folders: tuple[str, ...]
    """Left by runs that are over: `tmp/<run>` and `staged/<run>`."""
    claims: int
    """Old claims in `epochs/`."""
    left_alone: tuple[str, ...]
    """Tables that nothing here knows, features and sequences of encoders without a model among them."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.folders or self.claims or any(p.rewrites or p.expired or p.checkpoint for p in self.tables))

    def summary(self) -> dict[str, Any]:
        """Counts of what would be done, for a person."""
        return {
            "tables": {
                plan.name: {
                    "rows": sum(entry.rows for entry in plan.at.entries),
                    "files": len(plan.at.entries),
                    "bytes": sum(entry.size for entry in plan.at.entries),
                    "files_to_join": sum(len(rewrite.files) for rewrite in plan.rewrites),
                    "rows_to_drop": sum(rewrite.dropped for rewrite in plan.rewrites),
                    "files_to_delete": len(plan.expired),
                    "bytes_to_delete": sum(plan.expired.values()),
                }
                for plan in self.tables
            },
            "folders_to_delete": list(self.folders),
            "claims_to_delete": self.claims,
            "left_alone": list(self.left_alone),
        }


def plan_maintenance(workspace: Workspace, *, keep: timedelta) -> Plan:
    """Find what there is to do, one bucket's keys at a time, without changing anything.

    Args:
        workspace: its tables are read at their latest versions.
        keep: retention window; versions and leftovers younger than this stay.
    """
    tables, needs = _known_tables(workspace), _needs(workspace)
    there = {uri[len(workspace.uri) + 1 :] for uri in workspace.tables()}
    known = sorted(name for name in tables if name in there)
    return Plan(
        tables=tuple(_plan(name, tables[name], needs.get(name), keep) for name in known),
        folders=tuple(old_folders(workspace, keep)),
        claims=tidy(workspace.path("epochs"), dry_run=True),
        left_alone=tuple(sorted(name for name in there - set(tables) if not name.startswith("staged/"))),
    )


def maintain(workspace: Workspace, *, keep: timedelta) -> dict[str, Any]:
    """Bring a workspace in order; see `plan_maintenance` for the arguments. The caller holds the workspace's turn.

    Returns:
        Ledger entry; per table the counts tie out: rows before = rows after + dropped.
    """
    plan = plan_maintenance(workspace, keep=keep)
    run = Run(workspace=workspace, job="maintain", settings={"keep_hours": keep / timedelta(hours=1)})
    if plan.nothing:
        return nothing_to_do()
    if any(table.rewrites for table in plan.tables):
        start_ray(workspace)
    rewritten = {table.name: _rewrite_all(table, run.run_id) for table in plan.tables}
    counts = {table.name: _clean(table, *rewritten[table.name], keep=keep) for table in plan.tables}
    for folder in plan.folders:
        remove_folder(workspace.path(folder))
        say(f"maintain   {folder}: left by a run that is over, deleted")
    for name in plan.left_alone:
        say(f"maintain   {name}: no stored model names this table, left alone")
    versions = {table.name: table.at.table.version() for table in plan.tables}
    folders = {"folders": len(plan.folders), "claims": tidy(workspace.path("epochs"))}
    return run.finish({"tables": counts, "deleted": folders, "left_alone": list(plan.left_alone)}, versions)


def nothing_to_do() -> dict[str, Any]:
    """Say so; what `maintain` returns then, which is not in the ledger."""
    say("maintain   nothing to do")
    return {"run_id": new_run_id(), "job": "maintain", "seconds": 0.0, "counts": {}}


def _known_tables(workspace: Workspace) -> dict[str, Table]:
    """Every table whose schema is known, by name."""
    catalog = Catalog(workspace=workspace)
    return {
        "catalog": catalog.table,
        "images": catalog.images,
        "splits": catalog.splits,
        "corrections": Corrections(workspace=workspace).table,
        "predictions": Predictions(workspace=workspace).table,
        "changes": Changes(workspace=workspace).table,
        "quarantine": quarantine_table(workspace),
        "runs": runs_table(workspace),
        "trials": trials_table(workspace),
        **{f"features/{store.encoder}": store.table for store in _stores(workspace)},
        **{f"features/{store.encoder}": store.table for store in _joined_stores(workspace)},
        **{f"sequences/{store.encoder}": sequences_table(workspace, store.encoder) for store in _stores(workspace)},
    }


def _stores(workspace: Workspace) -> Iterator[FeatureStore]:
    for model in list_models(workspace, "encoder"):
        yield store_of(workspace, model)


def _joined_stores(workspace: Workspace) -> Iterator[FeatureStore]:
    for head in list_models(workspace, "head"):
        if reads_sequences(head):
            yield joined_store(workspace, head)


def _needs(workspace: Workspace) -> dict[str, _Needs]:
    """What the tables that follow the catalog must keep; empty, so that nothing is dropped, without a catalog."""
    catalog = Catalog(workspace=workspace).table.snapshot()
    if not catalog.entries:
        return {}
    of: dict[str, Contents] = {name: OfModality(catalog, name) for name in MODALITIES}
    kinds = [(kind, store) for store in _stores(workspace) for kind in ("features", "sequences")]
    joined = _Needs(contents=PossiblyTogether(catalog), content_column="content_hash")
    return {
        "images": _Needs(contents=of["image"], content_column="image_hash"),
        **{
            f"{kind}/{store.encoder}": _Needs(contents=of[store.modality], content_column="content_hash")
            for kind, store in kinds
        },
        **{f"features/{store.encoder}": joined for store in _joined_stores(workspace)},
    }


def _plan(name: str, table: Table, needs: _Needs | None, keep: timedelta) -> _Plan:
    at = table.snapshot()
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(partial(_rewrites, at=at, needs=needs), sorted({entry.bucket for entry in at.entries})))
    return _Plan(
        name=name,
        at=at,
        needs=needs,
        rewrites=tuple(rewrite for bucket in found for rewrite in bucket),
        expired=table.unreferenced(keep),
        loose_commits=table.loose_commits(),
    )


def _rewrites(bucket: int, *, at: Snapshot, needs: _Needs | None) -> list[_Rewrite]:
    """The files of one bucket that are worth rewriting."""
    files = at.of([bucket])
    masks = _masks(files, needs.kept(at, bucket)) if needs else {}
    dropped = {path: int(np.count_nonzero(~mask)) for path, mask in masks.items()}
    worth = sum(dropped.values()) > SHARE_WORTH_DROPPING * sum(entry.rows for entry in files)
    groups = (
        _Rewrite(files=tuple(group), dropped=sum(dropped.get(entry.path, 0) for entry in group))
        for group in _grouped(files)
    )
    return [group for group in groups if len(group.files) >= FILES_WORTH_JOINING or (worth and group.dropped)]


def _grouped(files: Sequence[FileEntry]) -> Iterator[list[FileEntry]]:
    """Files, the smallest first, in groups of at most `TARGET_BYTES`; a larger file is a group of its own."""
    group: list[FileEntry] = []
    for entry in sorted((file for file in files if file.size <= LARGEST_BYTES), key=lambda file: file.size):
        if group and sum(file.size for file in group) + entry.size > TARGET_BYTES:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _masks(files: Sequence[FileEntry], kept: np.ndarray) -> dict[str, np.ndarray]:
    """The part of a bucket's mask that belongs to each file, by path."""
    ends = np.cumsum([entry.rows for entry in files])
    return {entry.path: part for entry, part in zip(files, np.split(kept, ends[:-1]), strict=True)}


def _clean(plan: _Plan, version: int, dropped: int, *, keep: timedelta) -> dict[str, int]:
    """Delete old files and checkpoint, when every table is rewritten; counts of rows, files and bytes."""
    table, before = plan.at.table, plan.at.entries
    after = table.snapshot(version).entries
    expired = table.unreferenced(keep) if plan.rewrites else plan.expired
    if expired:
        table.delete(list(expired))
    if plan.checkpoint:
        table.checkpoint()
    counts = {
        "rows_before": sum(entry.rows for entry in before),
        "rows_after": sum(entry.rows for entry in after),
        "rows_dropped": dropped,
        "files_before": len(before),
        "files_after": len(after),
        "bytes_before": sum(entry.size for entry in before),
        "bytes_after": sum(entry.size for entry in after),
        "files_deleted": len(expired),
        "bytes_deleted": sum(expired.values()),
    }
    tie_out(f"maintain {plan.name}", counts["rows_before"], {"after": counts["rows_after"], "dropped": dropped})
    say(_line(plan.name, counts))
    return counts


def _line(name: str, counts: dict[str, int]) -> str:
    """`maintain   images: 900 rows, 4 files of 1.2 MB before, 12 files of 1.3 MB; ...`: one line a table."""
    now, before = (
        f"{counts[f'files_{when}']:,} files of {counts[f'bytes_{when}'] / 1e6:,.1f} MB" for when in ("after", "before")
    )
    return (
        f"maintain   {name}: {counts['rows_after']:,} rows in {now} (before: {before}),"
        f" {counts['rows_dropped']:,} rows dropped,"
        f" {counts['files_deleted']:,} old files of {counts['bytes_deleted'] / 1e6:,.1f} MB deleted"
    )


def _rewrite_all(plan: _Plan, run_id: str) -> tuple[int, int]:
    """Rewrite a table's files in workers and commit `COMMIT_UNITS` at a time; the table's version then, rows dropped.

    A table that people write while a run holds the workspace is left as it is when they just have.
    """
    version, dropped = plan.at.version, 0
    work = partial(_rewrite, at=plan.at, needs=plan.needs, order_by=_order_of(plan))
    units = [{"files": [asdict(entry) for entry in rewrite.files]} for rewrite in plan.rewrites]
    progress, batch = Progress("maintain", len(units), f"files of {plan.name}"), []
    for done in stream(units, work, ask=COMPACT):
        batch.append(done)
        progress.advance(1)
        if len(batch) == COMMIT_UNITS or progress.done == len(units):
            try:
                version = _commit(plan.at.table, batch, app_id=f"{run_id}-{progress.done}", read_version=version)
            except LostRaceError:
                if plan.at.table.epoch:
                    raise
                say(f"maintain   {plan.name}: written meanwhile, its files are joined the next time")
                break
            dropped += sum(unit["dropped"] for unit in batch)
            batch = []
    return version, dropped


def _commit(table: Table, batch: list[dict[str, Any]], *, app_id: str, read_version: int) -> int:
    added, removed = ([FileEntry(**entry) for unit in batch for entry in unit[name]] for name in ("added", "removed"))
    dropped = sum(unit["dropped"] for unit in batch)
    rows = {"kept": sum(entry.rows for entry in added), "dropped": dropped}
    tie_out(f"maintain {table.uri}", sum(entry.rows for entry in removed), rows)
    return table.replace(added, removed, app_id=app_id, read_version=read_version, same_rows=not dropped)


def _rewrite(unit: dict[str, Any], *, at: Snapshot, needs: _Needs | None, order_by: str) -> list[dict[str, Any]]:
    """Write the rows of one unit's files that stay as one file, sorted by what readers filter on."""
    files = [FileEntry(**entry) for entry in unit["files"]]
    bucket = files[0].bucket
    rows = at.table.read_files(files)
    tie_out(f"maintain {at.table.uri}", sum(entry.rows for entry in files), {"read": rows.num_rows})
    before = rows.num_rows
    if needs:
        masks = _masks(at.of([bucket]), needs.kept(at, bucket))
        rows = rows.filter(pa.array(np.concatenate([masks[entry.path] for entry in files])))
    added = [at.table.write_file(rows.sort_by(order_by), bucket=bucket)] if rows.num_rows else []
    return [{"added": [asdict(file) for file in added], "removed": unit["files"], "dropped": before - rows.num_rows}]


def _order_of(plan: _Plan) -> str:
    """The column that readers filter on."""
    if plan.needs:
        return plan.needs.content_column
    names = plan.at.table.schema.names
    return "product_id" if "product_id" in names else names[0]


def _pairs(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*rows.columns, "\x1f")

"""Publication: staged predictions -> compared with what is published -> one commit of `predictions`, then `changes`.

Everything is written before the commit, and set aside with the ledger entry: a run that is killed after it is finished
by the next one (`settle`), and one that the gate has refused can be published as it is when a person approves it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.changes import COMPARED, Changes, Lineage, Tally, compare, returning
from mmbatch.errors import InputError
from mmbatch.failpoints import reach
from mmbatch.models import list_models
from mmbatch.pipelines import metrics
from mmbatch.pipelines.cluster import remove_folder, stream
from mmbatch.pipelines.resources import COMPARE
from mmbatch.predictions import Predictions, Publication, merged
from mmbatch.progress import Progress, say
from mmbatch.quarantine import quarantine_table
from mmbatch.runs import plain, record
from mmbatch.storage import filesystem_of
from mmbatch.tables import FileEntry, Snapshot, Table
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace


def lineage_of(workspace: Workspace) -> Lineage:
    """What the identities of the workspace's predictors mean."""
    encoders = {model.id: model.card["encoders"] for model in list_models(workspace, "predictor")}
    return Lineage(encoders=encoders, history=TaxonomyHistory.read(workspace))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is to be published: files that are written, and what they change."""

    read_version: int
    """Of `predictions`."""
    added: tuple[FileEntry, ...]
    removed: tuple[FileEntry, ...]
    changes: tuple[FileEntry, ...]
    tally: Tally

    @property
    def version(self) -> int:
        """That `predictions` will have."""
        return max(self.read_version, 0) + 1  # a table is made empty, as version 0

    def publication(self, entry: Mapping[str, Any], *, refused: bool = False) -> Publication:
        """It, with the ledger entry of the run that publishes it."""
        return Publication(
            entry=entry,
            read_version=self.read_version,
            added=self.added,
            removed=self.removed,
            changes=self.changes,
            refused=refused,
        )


class _Sides(NamedTuple):
    """One bucket of `predictions`, now and as it is to be."""

    before: pa.Table
    after: pa.Table
    added: Sequence[FileEntry]
    removed: Sequence[FileEntry]


def candidate(
    workspace: Workspace, buckets: Collection[int], *, run_id: str, taken_back: Snapshot | None = None
) -> Candidate:
    """Merge the staged predictions of these buckets with the published ones, and compare both.

    `taken_back` is what the last rollback took back, whose categories are looked for among those to be published.
    """
    predictions, catalog = Predictions(workspace=workspace).pinned(), Catalog(workspace=workspace).pinned()
    sides = partial(_merged, catalog=catalog, predictions=predictions, staged=predictions.staged(run_id).snapshot())
    new = _candidate(predictions, buckets, sides, run_id=run_id, taken_back=taken_back)
    metrics.written("predictions", new.added)
    metrics.written("changes", new.changes)
    return new


def restored(workspace: Workspace, version: int, *, run_id: str) -> Candidate:
    """What a rollback to a version of `predictions` would publish: its files, as they are."""
    predictions = Predictions(workspace=workspace).pinned()
    target = predictions.table.snapshot(version)
    require_files(target.table, target.entries)
    sides = partial(_restored, published=predictions.published(), target=target)
    return _candidate(predictions, range(workspace.settings.buckets), sides, run_id=run_id, rollback=True)


def _candidate(
    predictions: Predictions, buckets: Collection[int], sides: Callable[[int], _Sides], **arguments: Any
) -> Candidate:
    workspace, read_version = predictions.workspace, predictions.published().version
    units = [{"bucket": bucket, "touched": bucket in buckets} for bucket in range(workspace.settings.buckets)]
    progress, tally = Progress("compare", len(units), "buckets"), Tally()
    files: dict[str, list[FileEntry]] = {"added": [], "removed": [], "changes": []}
    lineage = lineage_of(workspace)
    work = partial(_compare_bucket, predictions=predictions, sides_of=sides, lineage=lineage, **arguments)
    for done in stream(units, work, ask=COMPARE):
        for name, found in files.items():
            found += [FileEntry(**entry) for entry in done[name]]
        tally.add(Tally.from_json(done["tally"]))
        progress.advance(1)
    return Candidate(read_version=read_version, tally=tally, **{name: tuple(found) for name, found in files.items()})


def _compare_bucket(
    row: dict[str, Any],
    *,
    predictions: Predictions,
    sides_of: Callable[[int], _Sides],
    lineage: Lineage,
    run_id: str,
    taken_back: Snapshot | None = None,
    rollback: bool = False,
) -> list[dict[str, Any]]:
    bucket, changes = row["bucket"], Changes(workspace=predictions.workspace).table
    if not row["touched"]:
        rows = predictions.published().read(["category", "decision"], buckets=[bucket])
        return [{"added": [], "removed": [], "changes": [], "tally": Tally.of(rows, rows).to_json()}]
    sides = sides_of(bucket)
    before, after = sides.before.select(COMPARED), sides.after.select(COMPARED)
    compared = compare(before, after, lineage=lineage, run_id=run_id, bucket=bucket, rollback=rollback)
    tally = Tally.of(before, after, compared)
    if taken_back is not None:
        tally.counts.update(returning(before, after, taken_back.read(["product_id", "category"], buckets=[bucket])))
    written = [changes.write_file(compared.changes, bucket=bucket)] if compared.changes.num_rows else []
    files = {"added": sides.added, "removed": sides.removed, "changes": written}
    return [{name: [asdict(entry) for entry in found] for name, found in files.items()} | {"tally": tally.to_json()}]


def _merged(bucket: int, *, catalog: Catalog, predictions: Predictions, staged: Snapshot) -> _Sides:
    """Now, and with the staged rows of a run."""
    before = predictions.published().read(buckets=[bucket])
    ids = catalog.keys([bucket])["product_id"].combine_chunks()
    after = merged(before, staged.read(buckets=[bucket]), product_ids=ids)
    added = [predictions.table.write_file(after, bucket=bucket)] if after.num_rows else []
    return _Sides(before, after, added, predictions.published().of([bucket]))


def _restored(bucket: int, *, published: Snapshot, target: Snapshot) -> _Sides:
    """Now, and at an earlier version."""
    now, then = published.of([bucket]), target.of([bucket])
    paths = {entry.path for entry in now}, {entry.path for entry in then}
    return _Sides(
        published.read(buckets=[bucket]),
        target.read(buckets=[bucket]),
        [entry for entry in then if entry.path not in paths[0]],
        [entry for entry in now if entry.path not in paths[1]],
    )


def require_files(table: Table, entries: Collection[FileEntry]) -> None:
    """`InputError` where maintenance has deleted files that are to be published."""
    filesystem, root = filesystem_of(table.uri)
    there = set(filesystem.find(root))
    lost = [entry.path for entry in entries if f"{root}/{entry.path}" not in there]
    if lost:
        raise InputError(
            f"{table.uri}: {len(lost)} of {len(entries)} files are deleted (jobs.maintain --keep-days): what they hold"
            " cannot be published any more"
        )


def described(workspace: Workspace, new: Candidate) -> dict[str, Any]:
    """What the ledger says of a publication, and what the next one is compared with."""
    return {
        "published": {"version": new.version, "before": new.read_version},
        **{name: new.tally.counts[name] for name in ("changes", "changed", "products_after", "review_after")},
        "reasons": dict(new.tally.reasons),
        "quarantined": quarantined(workspace),
    }


def quarantined(workspace: Workspace) -> dict[str, int]:
    """Entries in quarantine by reason."""
    reasons = pc.value_counts(quarantine_table(workspace).read(["reason"])["reason"])
    return dict(zip(reasons.field("values").to_pylist(), reasons.field("counts").to_pylist(), strict=True))


def publish(workspace: Workspace, publication: Publication) -> dict[str, Any]:
    """Publish in one commit, then tell `changes` and the ledger; returns the ledger entry as plain values."""
    predictions = Predictions(workspace=workspace)
    predictions.set_aside(publication)
    reach("publish.before")
    predictions.table.replace(
        publication.added, publication.removed, app_id=publication.run_id, read_version=publication.read_version
    )
    reach("publish.after")
    _finish(workspace, publication)
    entry = plain(publication.entry)
    metrics.count(metrics.CHANGES, entry["counts"]["reasons"])
    return entry


def refuse(workspace: Workspace, publication: Publication) -> dict[str, Any]:
    """Keep what the gate has refused until something is published; returns the ledger entry as plain values."""
    Predictions(workspace=workspace).set_aside(publication)
    record(workspace, publication.entry)
    return plain(publication.entry)


def settle(workspace: Workspace) -> None:
    """Finish what runs have published before they were killed, and remove what cannot be published any more."""
    predictions = Predictions(workspace=workspace)
    for run_id in predictions.runs_aside():
        found = predictions.aside(run_id)
        if found is not None and predictions.table.landed(run_id):
            say(f"publish    {run_id} was published before it was killed: finished")
            _finish(workspace, found)
        elif not predictions.waits(run_id):
            remove_folder(predictions.staged(run_id).uri)


def _finish(workspace: Workspace, publication: Publication) -> None:
    Changes(workspace=workspace).table.commit(publication.changes, app_id=publication.run_id)
    record(workspace, publication.entry)
    remove_folder(Predictions(workspace=workspace).staged(publication.run_id).uri)

"""Raw rows -> catalog, in two passes: workers check and stage the rows, then merge them bucket by bucket.

No process ever holds more than one batch of a source file or one bucket of the catalog, and 32 bytes for every web
image of the catalog, which the workers of a node share. The staged files are this run's own; what counts is the commit
at the end, so that a killed run leaves the catalog as it was. Only what was downloaded outlives it, for the next one.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Self

import pyarrow.compute as pc

from mmbatch.catalog import FIELDS, Catalog, stage
from mmbatch.downloads import Downloads
from mmbatch.errors import InputError
from mmbatch.held_images import HeldImages
from mmbatch.image_access import ImageAccess
from mmbatch.pipelines import metrics
from mmbatch.pipelines.cluster import begun, count_attempts, share, shared, stream
from mmbatch.pipelines.merging import OUTCOMES, merge_bucket, tables_of
from mmbatch.pipelines.refusals import Removal, refuse_removal
from mmbatch.pipelines.resources import MERGE, STAGE
from mmbatch.pipelines.staging import StagingWriter
from mmbatch.progress import Progress
from mmbatch.quarantine import DUPLICATE, Scope, entries_for
from mmbatch.runs import tie_out
from mmbatch.sources import Checked, Columns, Unit, read_unit
from mmbatch.tables import FileEntry, Snapshot

ROW_OUTCOMES = (*OUTCOMES, "superseded", "skipped", "rejected")
"""What can become of a row of the source."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How raw rows are read: kept in the ledger, so that a row can be read again in the same way."""

    columns: Columns
    access: ImageAccess

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """What `asdict` made of it, out of a ledger entry's JSON."""
        columns = settings["columns"]
        return cls(
            columns=Columns(**columns | {"label": tuple(columns["label"])}),
            access=ImageAccess(places=tuple(settings["access"]["places"])),
        )


@dataclass(kw_only=True)
class Written:
    """The files of a merge: written, and not there for anybody until they are committed."""

    catalog: Catalog
    run_id: str
    versions: Mapping[str, int]
    """Table -> version that the merge read."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What `Intake.merge` counted."""
    files: dict[tuple[str, str], list[FileEntry]] = field(default_factory=lambda: defaultdict(list))
    """By table and whether they are `added` or `removed`."""

    def snapshot(self) -> Snapshot:
        """The catalog as it will be."""
        now = self.catalog.table.snapshot()
        gone = {entry.path for entry in self.files["catalog", "removed"]}
        entries = [entry for entry in now.entries if entry.path not in gone] + self.files["catalog", "added"]
        return Snapshot(now.table, now.version, tuple(sorted(entries, key=lambda entry: (entry.bucket, entry.path))))

    def commit(self) -> None:
        """Commit images, quarantine and, last, the catalog; `LostRaceError` when one has changed since."""
        for name, table in tables_of(self.catalog).items():
            added, removed = self.files[name, "added"], self.files[name, "removed"]
            table.replace(added, removed, app_id=self.run_id, read_version=self.versions[name])
            metrics.written(name, added)
            self.files[name, "added"], self.files[name, "removed"] = [], []
        Downloads.of(self.catalog.workspace).remove()

    def discard(self) -> None:
        """Delete the files that were written and not committed."""
        for name, table in tables_of(self.catalog).items():
            if added := self.files.pop((name, "added"), []):
                table.delete([entry.path for entry in added])


@dataclass(frozen=True, kw_only=True)
class Intake:
    """One run's way into the catalog; pickles to its workers."""

    catalog: Catalog
    scope: Scope
    staging: str
    """Folder of this run's own, which the caller removes."""
    run_id: str

    def stage(self, units: Sequence[Unit], reading: Reading) -> Counter[str]:
        """First pass: check, hash and stage the rows in scope.

        Returns totals of `rows`, and of those that were `rejected` whole and `skipped`.
        """
        totals: Counter[str] = Counter()
        progress = Progress("read", len(units), "parts of the source")
        held = share(HeldImages.of(self.catalog))
        work = partial(_stage_unit, intake=self, reading=reading, attempts=count_attempts(), held=held)
        for done in stream([asdict(unit) for unit in units], work, ask=STAGE):
            totals.update(done)
            progress.advance(1)
        return totals

    def merge(self, staged: Mapping[str, int], *, allow_removals: bool = False) -> Written:
        """Second pass: merge every bucket, and commit nothing.

        Returns files with counts that tie out: rows = new + edited + unchanged + rejected and, of a feed, + superseded
        + deleted + deleted_unknown + skipped, and rejected = the sum of `reasons`. `edited_fields` counts the edited
        products by what differs, `part_reasons` the bad images and labels of rows that were stored without them,
        `flawed` the rows that have anything in quarantine. `RefusedToPublishError` (`refuse_removal`) unless
        `allow_removals`; after that, or any other error, what was written is deleted.
        """
        versions = {name: table.version() for name, table in tables_of(self.catalog).items()}
        written = Written(catalog=self.catalog, run_id=self.run_id, versions=versions)
        with ExitStack() as undo:
            undo.callback(written.discard)
            counts, reasons, ids = self._merge_buckets(written)
            if not allow_removals:
                found = Removal(
                    products=self.catalog.table.rows(),
                    counts=counts,
                    snapshot=self.scope.snapshot,
                    new_id=min(ids["new_ids"], default=None),
                    removed_id=min(ids["removed_ids"], default=None),
                )
                refuse_removal(found)
            written.counts |= _tied_out(staged, counts, reasons)
            undo.pop_all()
        return written

    def _merge_buckets(
        self, written: Written
    ) -> tuple[Counter[str], Counter[tuple[str, str | None]], dict[str, list[str]]]:
        """Counts by outcome and edited field, entries by reason and modality, and ids of each kind; fills `written`."""
        counts: Counter[str] = Counter()
        reasons: Counter[tuple[str, str | None]] = Counter()
        ids: dict[str, list[str]] = {"new_ids": [], "removed_ids": []}
        buckets = self.catalog.workspace.settings.buckets
        work = partial(merge_bucket, catalog=self.catalog, scope=self.scope, staging=self.staging, run_id=self.run_id)
        progress = Progress("merge", buckets, "buckets")
        for done in stream([{"bucket": bucket} for bucket in range(buckets)], work, ask=MERGE):
            for file in done["files"]:
                written.files[file.pop("table"), file.pop("change")].append(FileEntry(**file))
            counts.update(done["counts"])
            counts.update({f"edited {name}": count for name, count in done["fields"].items()})
            for row in done["reasons"]:
                reasons[row["reason"], row["modality"]] += row["entries"]
            for name, found in ids.items():
                found += done[name]
            progress.advance(1)
        return counts, reasons, ids


def _stage_unit(
    row: dict[str, Any], *, intake: Intake, reading: Reading, attempts: Any, held: Any
) -> list[dict[str, int]]:
    unit, buckets = Unit(**row), intake.catalog.workspace.settings.buckets
    writer = StagingWriter(f"{intake.staging}/rows/{unit.index:08d}")
    rejects = StagingWriter(f"{intake.staging}/rejects/{unit.index:08d}")
    downloads, rows, rejected, skipped = Downloads.of(intake.catalog.workspace), 0, 0, 0
    parts = read_unit(
        unit,
        reading.columns,
        access=reading.access,
        positions=intake.scope.positions(unit.file),
        isolate=begun(attempts, f"read {unit.index}") > 1,
        held=shared(held),
    )
    for part, checked in enumerate(parts):
        _check_not_moved(unit.file, checked, intake.scope)
        staged = stage(checked.rows, source=unit.file, unit=unit.index, buckets=buckets)
        writer.add(downloads.keep(f"{intake.run_id}-{unit.index:08d}-{part:06d}", staged))
        entries = entries_for(checked.rejects, stage="ingest", source=unit.file, run_id=intake.run_id, buckets=buckets)
        rejects.add(entries)
        whole = entries["modality"].null_count
        rows += checked.rows.num_rows + whole + checked.skipped
        rejected += whole
        skipped += checked.skipped
    writer.flush()
    rejects.flush()
    return [{"rows": rows, "rejected": rejected, "skipped": skipped}]


def _check_not_moved(file: str, checked: Checked, scope: Scope) -> None:
    """Raise `InputError` when a row that is read again is another product's now: positions mean nothing then."""
    if scope.rows is None:
        return
    entries = scope.rows.filter(pc.and_(pc.equal(scope.rows["source"], file), pc.is_valid(scope.rows["product_id"])))
    entries = entries.filter(pc.not_equal(entries["reason"], DUPLICATE))  # it is mended by another id
    expected = dict(zip(entries["position"].to_pylist(), entries["product_id"].to_pylist(), strict=True))
    for rows in (checked.rows, checked.rejects):
        for position, found in zip(rows["position"].to_pylist(), rows["product_id"].to_pylist(), strict=True):
            if found is not None and expected.get(position, found) != found:
                raise InputError(
                    f"{file}: row {position} was product {expected[position]!r} when it was rejected and is {found!r}"
                    " now: rows have moved; ingest the file again instead"
                )


def _tied_out(
    staged: Mapping[str, int], counts: Mapping[str, int], reasons: Mapping[tuple[str, str | None], int]
) -> dict[str, Any]:
    """The counts of an ingest, which agree with each other."""
    outcomes = {name: counts[name] for name in (*OUTCOMES, "superseded")}
    outcomes |= {"skipped": staged["skipped"], "rejected": staged["rejected"] + counts["rejected"]}
    tie_out("ingest", staged["rows"], outcomes)
    whole = {reason: count for (reason, modality), count in sorted(reasons.items(), key=str) if modality is None}
    parts = {reason: count for (reason, modality), count in sorted(reasons.items(), key=str) if modality is not None}
    tie_out("ingest, rejected by reason", outcomes["rejected"], whole)
    return {
        "rows": staged["rows"],
        **outcomes,
        "removed": counts["removed"],
        "edited_fields": {name: counts[f"edited {name}"] for name in FIELDS},
        "reasons": whole,
        "part_reasons": parts,
        "flawed": counts["flawed"],
    }

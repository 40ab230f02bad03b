"""Raw rows -> catalog, in two passes: workers check and stage the rows, then merge them bucket by bucket.

No process ever holds more than one batch of a source file or one bucket of the catalog. The staged files are this
run's own; what counts is the commit at the end, so that a killed run leaves the catalog as it was.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import pyarrow.compute as pc

from mmbatch.catalog import Catalog, stage
from mmbatch.errors import InputError, RefusedToPublishError
from mmbatch.image_access import ImageAccess
from mmbatch.pipelines.cluster import begun, count_attempts, stream
from mmbatch.pipelines.merging import merge_bucket, tables_of
from mmbatch.pipelines.staging import StagingWriter
from mmbatch.progress import Progress
from mmbatch.quarantine import DUPLICATE, Scope, entries_for
from mmbatch.runs import tie_out
from mmbatch.sources import Checked, Columns, Unit, read_unit
from mmbatch.tables import FileEntry

MOST_REMOVED = 0.5
"""Share of the catalog that a snapshot may remove: a feed that loses more in one night is far more often cut short
than right, and what is refused can be ingested in another way, while what is removed has to be found again."""

SMALL_CATALOG = 100
"""Products below which a snapshot may remove any share: trials and tests, where half of it is a handful."""


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


@dataclass(frozen=True, kw_only=True)
class Intake:
    """One run's way into the catalog; pickles to its workers."""

    catalog: Catalog
    scope: Scope
    staging: str
    """Folder of this run's own, which the caller removes."""
    run_id: str

    def stage(self, units: Sequence[Unit], reading: Reading) -> Counter[str]:
        """First pass: check, hash and stage the rows in scope; totals of `rows` and of those `rejected` whole."""
        totals: Counter[str] = Counter()
        progress = Progress("read", len(units), "parts of the source")
        work = partial(_stage_unit, intake=self, reading=reading, attempts=count_attempts())
        for done in stream([asdict(unit) for unit in units], work):
            totals.update(done)
            progress.advance(1)
        return totals

    def merge(self, staged: Mapping[str, int]) -> dict[str, Any]:
        """Second pass: merge every bucket, then commit images, quarantine and, last, the catalog.

        Returns counts that tie out: rows = new + edited + unchanged + rejected, and rejected = the sum of `reasons`.
        `part_reasons` counts the bad images and labels of rows that were stored without them, `flawed` the rows that
        have anything in quarantine. `RefusedToPublishError` when a snapshot would remove more than `MOST_REMOVED`.
        """
        tables = tables_of(self.catalog)
        versions = {name: table.version() for name, table in tables.items()}
        counts, reasons, files = self._merge_buckets()
        _refuse_cut_snapshot(self.catalog.table.rows(), counts["removed"])
        found = _tied_out(staged, counts, reasons)
        for name, table in tables.items():
            added, removed = files[name, "added"], files[name, "removed"]
            table.replace(added, removed, app_id=self.run_id, read_version=versions[name])
        return found

    def _merge_buckets(self) -> tuple[Counter[str], Counter[tuple[str, str | None]], dict[Any, list[FileEntry]]]:
        """Counts by outcome, entries by reason and modality, and files by table and whether added or removed."""
        counts: Counter[str] = Counter()
        reasons: Counter[tuple[str, str | None]] = Counter()
        files: dict[Any, list[FileEntry]] = defaultdict(list)
        buckets = self.catalog.workspace.settings.buckets
        work = partial(merge_bucket, catalog=self.catalog, scope=self.scope, staging=self.staging, run_id=self.run_id)
        progress = Progress("merge", buckets, "buckets")
        for done in stream([{"bucket": bucket} for bucket in range(buckets)], work):
            counts.update(done["counts"])
            for row in done["reasons"]:
                reasons[row["reason"], row["modality"]] += row["entries"]
            for file in done["files"]:
                files[file.pop("table"), file.pop("change")].append(FileEntry(**file))
            progress.advance(1)
        return counts, reasons, files


def _stage_unit(row: dict[str, Any], *, intake: Intake, reading: Reading, attempts: Any) -> list[dict[str, int]]:
    unit, buckets = Unit(**row), intake.catalog.workspace.settings.buckets
    writer = StagingWriter(f"{intake.staging}/rows/{unit.index:08d}")
    rejects = StagingWriter(f"{intake.staging}/rejects/{unit.index:08d}")
    rows = rejected = 0
    positions = intake.scope.positions(unit.file)
    isolate = begun(attempts, f"read {unit.index}") > 1
    for checked in read_unit(unit, reading.columns, access=reading.access, positions=positions, isolate=isolate):
        _check_not_moved(unit.file, checked, intake.scope)
        writer.add(stage(checked.rows, source=unit.file, unit=unit.index, buckets=buckets))
        entries = entries_for(checked.rejects, stage="ingest", source=unit.file, run_id=intake.run_id, buckets=buckets)
        rejects.add(entries)
        whole = entries["modality"].null_count
        rows += checked.rows.num_rows + whole
        rejected += whole
    writer.flush()
    rejects.flush()
    return [{"rows": rows, "rejected": rejected}]


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


def _refuse_cut_snapshot(products: int, removed: int) -> None:
    if products >= SMALL_CATALOG and removed > MOST_REMOVED * products:
        raise RefusedToPublishError(
            f"--snapshot would remove {removed:,} of {products:,} products, more than {MOST_REMOVED:.0%}: the source"
            " looks cut short; ingest it without --snapshot, or into a new workspace"
        )


def _tied_out(
    staged: Mapping[str, int], counts: Mapping[str, int], reasons: Mapping[tuple[str, str | None], int]
) -> dict[str, Any]:
    """The counts of an ingest, which agree with each other."""
    outcomes = {name: counts[name] for name in ("new", "edited", "unchanged")}
    outcomes["rejected"] = staged["rejected"] + counts["duplicates"]
    tie_out("ingest", staged["rows"], outcomes)
    whole = {reason: count for (reason, modality), count in sorted(reasons.items(), key=str) if modality is None}
    parts = {reason: count for (reason, modality), count in sorted(reasons.items(), key=str) if modality is not None}
    tie_out("ingest, rejected by reason", outcomes["rejected"], whole)
    return {
        "rows": staged["rows"],
        **outcomes,
        "removed": counts["removed"],
        "reasons": whole,
        "part_reasons": parts,
        "flawed": counts["flawed"],
    }

"""Ingest: a source's rows into the catalog, and what of them cannot be used into quarantine."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.image_access import ImageAccess
from mmbatch.learned_classes import fix_classes, fixed_classes, most_frequent
from mmbatch.pipelines.cluster import remove_folder, start_ray
from mmbatch.pipelines.intake import ROW_OUTCOMES, Intake, Reading, Written
from mmbatch.pipelines.metrics import stage_done
from mmbatch.pipelines.refusals import refuse_older
from mmbatch.progress import say
from mmbatch.quarantine import Scope, quarantine_table
from mmbatch.runs import Run, last_run
from mmbatch.schema import SPLITS
from mmbatch.sources import Columns, check_kind, fingerprint_files, list_files, newest_change, plan_units
from mmbatch.splits import draw_splits
from mmbatch.tables import Snapshot
from mmbatch.workspace import Workspace, normalise_uri


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a source would do to the catalog: everything is written, and nothing committed. Commit it, or discard it."""

    run: Run
    written: Written
    counts: Mapping[str, Any]
    """As in the ledger: see `Intake.merge`; and `modified`, when the newest file of the source was, ISO 8601 in UTC, or
    null where its file system does not say."""

    def catalog(self) -> Snapshot:
        """The catalog as it will be."""
        return self.written.snapshot()

    def commit(self) -> dict[str, Any]:
        """Make it so, and draw a split for every labelled product that has none.

        Returns the ledger entry; `LostRaceError` when the catalog has changed since.
        """
        self.written.commit()
        counts = dict(self.counts) | {"labelled_products_split": assign_splits(self.written.catalog)}
        entry = self.run.finish(counts, {"catalog": self.written.catalog.table.version()})
        reasons = [counts["reasons"], counts["part_reasons"]]
        stage_done("ingest", {name: counts[name] for name in ROW_OUTCOMES}, seconds=entry["seconds"], reasons=reasons)
        return entry

    def discard(self) -> None:
        """Delete the files that were written."""
        self.written.discard()


def ingest(
    workspace: Workspace,
    *,
    source: str,
    columns: Columns,
    access: ImageAccess | None = None,
    snapshot: bool = False,
    allow_removals: bool = False,
    allow_older: bool = False,
) -> dict[str, Any]:
    """Bring a source's products into the catalog, and what cannot be used into quarantine: `prepare`, and commit.

    Returns:
        Ledger entry; of a source that is the same again, the one of the earlier run: then a split is drawn for products
        that people have labelled since, and nothing else is done.
    """
    prepared = prepare(
        workspace,
        source=source,
        columns=columns,
        access=access,
        snapshot=snapshot,
        allow_removals=allow_removals,
        allow_older=allow_older,
    )
    if isinstance(prepared, Prepared):
        return prepared.commit()
    assign_splits(Catalog(workspace=workspace))
    return prepared


def prepare(
    workspace: Workspace,
    *,
    source: str,
    columns: Columns,
    access: ImageAccess | None = None,
    snapshot: bool = False,
    allow_removals: bool = False,
    allow_older: bool = False,
) -> Prepared | dict[str, Any]:
    """Read a source and write what it does to the catalog, without committing any of it.

    New and edited products are stored, products the source does not name stay. With `snapshot` the source names the
    whole catalog, and products it does not name are removed. With `columns.operation` it is a feed of changes: its rows
    say which products are removed, and the last row of an id counts. Where an error is raised, nothing stays behind but
    downloaded images, which the next ingest takes.

    Args:
        workspace: Whose catalog it is.
        source: A file, a folder or a glob.
        columns: Which columns hold what.
        access: Where images may be read from, beside the source's own folder.
        snapshot: The source names the whole catalog.
        allow_removals: Do what `refuse_removal` refuses.
        allow_older: Do what `refuse_older` refuses, of a snapshot or a feed.

    Returns:
        What would be done; the ledger entry of the earlier run when the same source was the last one that was ingested.
    """
    check_kind(columns, snapshot=snapshot)
    feed = columns.operation is not None
    files, reading = list_files(source), Reading(columns=columns, access=access or ImageAccess())
    named = {"source": normalise_uri(source), "files": fingerprint_files(files), "snapshot": snapshot}
    settings = named | asdict(reading)
    catalog = Catalog(workspace=workspace)
    previous = last_run(workspace, "ingest")
    if previous and _is_done(previous, settings, catalog):
        say(f"ingest     nothing new in {source}")
        return {"run_id": previous["run_id"], "job": "ingest", "seconds": 0.0, "counts": previous["counts"]}
    modified = newest_change(files)
    if (snapshot or feed) and not allow_older:
        refuse_older(workspace, source, modified)
    run = Run(workspace=workspace, job="ingest", settings=settings)
    units = plan_units(files, columns)
    start_ray(workspace)
    scope = Scope(files=tuple(files), snapshot=snapshot, feed=feed)
    intake = Intake(catalog=catalog, scope=scope, staging=workspace.path("tmp", run.run_id), run_id=run.run_id)
    try:
        written = intake.merge(intake.stage(units, reading), allow_removals=allow_removals)
    finally:
        remove_folder(intake.staging)
    counts = written.counts | {"modified": None if modified is None else modified.isoformat()}
    return Prepared(run=run, written=written, counts=counts)


def _is_done(previous: Mapping[str, Any], settings: Mapping[str, Any], catalog: Catalog) -> bool:
    """Whether the last ingest read the same files in the same way, and no image file was found changed since."""
    same = previous["settings"] == json.loads(json.dumps(settings))
    if not same or previous["versions"].get("catalog") != catalog.table.version():
        return False
    changed = pc.field("reason") == "image_changed"
    return not quarantine_table(catalog.workspace).read(["reason"], filters=changed).num_rows


def _learned(catalog: Catalog) -> pa.Table:
    """The catalog's `labels`, once it is fixed which classes are learned, where that is not all of them."""
    labels, workspace = catalog.labels(), catalog.workspace
    most = workspace.settings.top_classes
    if not most or not labels.num_rows or fixed_classes(workspace) is not None:
        return labels
    counted = pc.value_counts(labels["category"]).to_pylist()
    products = {one["values"]: one["counts"] for one in counted}
    classes = most_frequent(products, most)
    fix_classes(workspace, classes)
    found = sum(products[name] for name in classes)
    say(
        f"classes    the {len(classes)} most frequent of {len(products)} are learned from now on, with {found:,} of"
        f" {labels.num_rows:,} labelled products: {', '.join(classes)}"
    )
    return catalog.labels()


def assign_splits(catalog: Catalog) -> int:
    """Draw a split for every labelled product that has none; returns how many that were."""
    labels = _learned(catalog)
    missing = pc.is_null(labels["split"])
    drawn = pc.fill_null(pc.index_in(labels["split"], value_set=pa.array(SPLITS)), -1)
    if not pc.any(missing).as_py():
        return 0
    splits = draw_splits(
        product_ids=labels["product_id"],
        classes=pc.dictionary_encode(labels["category"]).combine_chunks().indices.to_numpy(),
        text_hashes=labels["text_hash"],
        image_hashes=labels["image_hash"],
        drawn=drawn.to_numpy(),
        seed=catalog.workspace.settings.seed,
    )
    rows = labels.select(["product_id", "bucket"]).append_column("split", pa.array(SPLITS).take(pa.array(splits)))
    rows = rows.filter(missing)
    version = catalog.splits.version()
    catalog.splits.replace(catalog.splits.write_buckets(rows), [], app_id=f"splits-{version}", read_version=version)
    return int(rows.num_rows)

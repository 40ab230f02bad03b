"""Ingest: a source's rows into the catalog, and what of them cannot be used into quarantine."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.image_access import ImageAccess
from mmbatch.pipelines.cluster import remove_folder, start_ray
from mmbatch.pipelines.intake import Intake, Reading
from mmbatch.progress import say
from mmbatch.quarantine import Scope, quarantine_table
from mmbatch.runs import Run, last_run
from mmbatch.schema import SPLITS
from mmbatch.sources import Columns, fingerprint_files, list_files, plan_units
from mmbatch.splits import draw_splits
from mmbatch.workspace import Workspace, normalise_uri


def ingest(
    workspace: Workspace, *, source: str, columns: Columns, access: ImageAccess | None = None, snapshot: bool = False
) -> dict[str, Any]:
    """Bring a source's products into the catalog, and what cannot be used into quarantine, with a reason.

    New and edited products are stored, products the source does not name stay. The same source again changes nothing.
    With `snapshot` the source names the whole catalog, and products it does not name are removed.

    Returns:
        Ledger entry whose counts tie out: rows = new + edited + unchanged + rejected; see `Intake.merge`.
    """
    files, reading = list_files(source), Reading(columns=columns, access=access or ImageAccess())
    named = {"source": normalise_uri(source), "files": fingerprint_files(files), "snapshot": snapshot}
    settings = named | asdict(reading)
    catalog = Catalog(workspace=workspace)
    previous = last_run(workspace, "ingest")
    if previous and _is_done(previous, settings, catalog):
        say(f"ingest     nothing new in {source}")
        return {"run_id": previous["run_id"], "job": "ingest", "seconds": 0.0, "counts": previous["counts"]}
    run = Run(workspace=workspace, job="ingest", settings=settings)
    units = plan_units(files, columns)
    start_ray()
    scope = Scope(files=tuple(files), snapshot=snapshot)
    intake = Intake(catalog=catalog, scope=scope, staging=workspace.path("tmp", run.run_id), run_id=run.run_id)
    try:
        counts = intake.merge(intake.stage(units, reading))
    finally:
        remove_folder(intake.staging)
    counts["labelled_products_split"] = assign_splits(catalog)
    return run.finish(counts, {"catalog": catalog.table.version()})


def _is_done(previous: Mapping[str, Any], settings: Mapping[str, Any], catalog: Catalog) -> bool:
    """Whether the last ingest read the same files in the same way, and no image file was found changed since."""
    same = previous["settings"] == json.loads(json.dumps(settings))
    if not same or previous["versions"].get("catalog") != catalog.table.version():
        return False
    changed = pc.field("reason") == "image_changed"
    return not quarantine_table(catalog.workspace).read(["reason"], filters=changed).num_rows


def assign_splits(catalog: Catalog) -> int:
    """Draw a split for every labelled product that has none; returns how many that were."""
    labels = catalog.labels()
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

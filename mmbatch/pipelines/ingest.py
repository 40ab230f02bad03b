"""Raw files -> catalog, in two passes: workers check and stage the source's rows, then merge them bucket by bucket.

No process ever holds more than one batch of a source file or one bucket of the catalog. The staged files are this
run's own; what counts is the commit at the end, so that a killed run leaves the catalog as it was.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mmbatch import schema
from mmbatch.catalog import STAGED, Catalog, Merged, merge, stage
from mmbatch.pipelines.cluster import remove_folder, start_ray, stream
from mmbatch.progress import Progress, say
from mmbatch.quarantine import entries_for, quarantine_table, write_new
from mmbatch.runs import Run, last_run, tie_out
from mmbatch.schema import SPLITS
from mmbatch.sources import Columns, Unit, fingerprint_files, list_files, plan_units, read_unit
from mmbatch.splits import draw_splits
from mmbatch.tables import FileEntry
from mmbatch.workspace import Workspace

STAGE_BYTES = 64 << 20
"""Staged rows are sorted by bucket and written in files of this size."""


def ingest(workspace: Workspace, *, source: str, columns: Columns) -> dict[str, Any]:
    """Bring a source's products into the catalog, and what cannot be used into quarantine, with a reason.

    New and edited products are stored, products the source does not name stay. The same source again changes nothing.

    Returns:
        Ledger entry whose counts tie out: rows = new + edited + unchanged + rejected.
    """
    files = list_files(source)
    settings = {"source": source, "files": fingerprint_files(files), "columns": asdict(columns)}
    catalog = Catalog(workspace=workspace)
    previous = last_run(workspace, "ingest")
    if previous and _is_done(previous, settings, catalog):
        say(f"ingest     nothing new in {source}")
        return {"run_id": previous["run_id"], "job": "ingest", "seconds": 0.0, "counts": previous["counts"]}
    run = Run(workspace=workspace, job="ingest", settings=settings)
    units = plan_units(files, columns)
    start_ray()
    staging = workspace.path("tmp", run.run_id)
    try:
        staged = _stage_all(catalog, units, columns=columns, staging=staging, run_id=run.run_id)
        counts = _merge_all(catalog, staged, staging=staging, run_id=run.run_id)
    finally:
        remove_folder(staging)
    tie_out("ingest", staged["rows"], {key: counts[key] for key in ("new", "edited", "unchanged", "rejected")})
    counts |= {"rows": staged["rows"], "labelled_products_split": assign_splits(catalog)}
    return run.finish(counts, {"catalog": catalog.table.version()})


def _is_done(previous: Mapping[str, Any], settings: Mapping[str, Any], catalog: Catalog) -> bool:
    same = previous["settings"] == json.loads(json.dumps(settings))
    return bool(same and previous["versions"].get("catalog") == catalog.table.version())


def _stage_all(catalog: Catalog, units: list[Unit], *, columns: Columns, staging: str, run_id: str) -> Counter[str]:
    """First pass: check, hash and stage every source row; totals of rows and of rejects."""
    totals: Counter[str] = Counter()
    work = partial(_stage_unit, catalog=catalog, columns=columns, staging=staging, run_id=run_id)
    progress = Progress("read", len(units), "parts of the source")
    for done in stream([asdict(unit) for unit in units], work):
        totals.update({key: value for key, value in done.items() if isinstance(value, int)})
        progress.advance(1)
    return totals


def _stage_unit(
    row: dict[str, Any], *, catalog: Catalog, columns: Columns, staging: str, run_id: str
) -> list[dict[str, Any]]:
    unit, buckets = Unit(**row), catalog.workspace.settings.buckets
    writer = _StagingWriter(f"{staging}/rows/{unit.index:08d}")
    rejects = _StagingWriter(f"{staging}/rejects/{unit.index:08d}")
    rows = rejected = 0
    for checked in read_unit(unit, columns):
        writer.add(stage(checked.rows, source=unit.file, unit=unit.index, buckets=buckets))
        rejects.add(entries_for(checked.rejects, stage="ingest", source=unit.file, run_id=run_id, buckets=buckets))
        whole = int(pc.sum(pc.is_null(checked.rejects["modality"])).as_py() or 0)
        rows += checked.rows.num_rows + whole
        rejected += whole
    writer.flush()
    rejects.flush()
    return [{"rows": rows, "rejected": rejected}]


class _StagingWriter:
    """Collects tables and writes them sorted by bucket, one row group a bucket, so that a bucket is read alone."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.tables: list[pa.Table] = []
        self.bytes = self.files = 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self.tables.append(table)
            self.bytes += table.nbytes
        if self.bytes >= STAGE_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self.tables:
            return
        table = pa.concat_tables(self.tables).sort_by("bucket")
        ends = np.flatnonzero(np.diff(table["bucket"].to_numpy(), append=-1)) + 1
        filesystem, path = fsspec.core.url_to_fs(f"{self.prefix}-{self.files:05d}.parquet")
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with filesystem.open(path, "wb") as sink, pq.ParquetWriter(sink, table.schema) as writer:
            for start, end in zip([0, *ends[:-1]], ends, strict=True):
                writer.write_table(table.slice(start, end - start))
        self.tables, self.bytes, self.files = [], 0, self.files + 1


def _merge_all(catalog: Catalog, staged: Counter[str], *, staging: str, run_id: str) -> dict[str, int]:
    """Second pass: merge every bucket, then commit images, quarantine and, last, the catalog."""
    buckets = catalog.workspace.settings.buckets
    read_version = catalog.table.version()
    work = partial(_merge_bucket, catalog=catalog, staging=staging, run_id=run_id)
    progress = Progress("merge", buckets, "buckets")
    totals: Counter[str] = Counter()
    files: dict[str, list[FileEntry]] = {"catalog": [], "catalog_removed": [], "images": [], "quarantine": []}
    for done in stream([{"bucket": bucket} for bucket in range(buckets)], work):
        totals.update(done["counts"])
        for name, entries in files.items():
            entries.extend(FileEntry(**entry) for entry in done[name])
        progress.advance(1)
    catalog.images.commit(files["images"], app_id=run_id)
    quarantine_table(catalog.workspace).commit(files["quarantine"], app_id=run_id)
    catalog.table.replace(files["catalog"], files["catalog_removed"], app_id=run_id, read_version=read_version)
    return {
        "new": totals["new"],
        "edited": totals["edited"],
        "unchanged": totals["unchanged"],
        "rejected": staged["rejected"] + totals["duplicates"],
    }


def _merge_bucket(row: dict[str, Any], *, catalog: Catalog, staging: str, run_id: str) -> list[dict[str, Any]]:
    bucket = row["bucket"]
    staged = _read_staged(f"{staging}/rows", STAGED, bucket)
    before = catalog.table.files([bucket])
    merged = merge(catalog.table.read_files(before), staged)
    changed = bool(merged.new or merged.edited)
    rejects = pa.concat_tables(
        [_read_staged(f"{staging}/rejects", schema.QUARANTINE, bucket), _duplicates(merged, run_id, catalog)]
    )
    files = {
        "catalog": [catalog.table.write_file(merged.rows, bucket=bucket)] if changed else [],
        "catalog_removed": before if changed else [],
        "images": _new_images(catalog, staged, bucket),
        "quarantine": write_new(quarantine_table(catalog.workspace), rejects, bucket=bucket),
    }
    counts = {"new": merged.new, "edited": merged.edited, "unchanged": merged.unchanged}
    counts["duplicates"] = merged.duplicates.num_rows
    return [{name: [asdict(entry) for entry in entries] for name, entries in files.items()} | {"counts": counts}]


def _read_staged(folder: str, columns: pa.Schema, bucket: int) -> pa.Table:
    filesystem, path = fsspec.core.url_to_fs(folder)
    files = sorted(filesystem.glob(f"{path}/*.parquet"))
    if not files:
        return columns.empty_table()
    dataset = ds.dataset(files, schema=columns, format="parquet", filesystem=filesystem)
    return dataset.to_table(filter=ds.field("bucket") == bucket)


def _duplicates(merged: Merged, run_id: str, catalog: Catalog) -> pa.Table:
    parts = [schema.QUARANTINE.empty_table()]
    for source in pc.unique(merged.duplicates["source"]).to_pylist():
        rows = merged.duplicates.filter(pc.equal(merged.duplicates["source"], source))
        message = pc.binary_join_element_wise("product id ", rows["product_id"], " came earlier in the source", "")
        rejects = pa.table(
            {
                "position": rows["position"],
                "product_id": rows["product_id"],
                "modality": pa.nulls(len(rows), pa.string()),
                "reason": pa.repeat("duplicate_id", len(rows)),
                "message": message,
            }
        )
        buckets = catalog.workspace.settings.buckets
        parts.append(entries_for(rejects, stage="ingest", source=source, run_id=run_id, buckets=buckets))
    return pa.concat_tables(parts)


def _new_images(catalog: Catalog, staged: pa.Table, bucket: int) -> list[FileEntry]:
    """Write the bucket's image files that are not stored yet, each content once."""
    rows = staged.filter(pc.is_valid(staged["image"])).select(schema.IMAGES.names)
    held = catalog.images.read(["image_hash"], buckets=[bucket])["image_hash"].combine_chunks()
    rows = rows.filter(pc.invert(pc.is_in(rows["image_hash"], value_set=held)))
    if not rows.num_rows:
        return []
    first = np.unique(rows["image_hash"].to_numpy(zero_copy_only=False), return_index=True)[1]
    return [catalog.images.write_file(rows.take(pa.array(first)), bucket=bucket)]


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

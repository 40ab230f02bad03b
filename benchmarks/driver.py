"""What one process of a run does by itself, in processor seconds: the rates that `benchmarks.simulation` is fed with.

    OMP_NUM_THREADS=1 python -m benchmarks.driver

log       opening a Delta table, listing its files and committing 16 more, by the number of files that it has
planning  what is stale and what is outdated, products of which nothing is, read from files as extraction writes them;
          and publishing predictions of all of them
intake    a row of the sample catalog (with its image) and of the synthetic one (text only): read, checked and staged,
          then merged into an empty bucket, and a split drawn for every product
footer    of a staged file, which every merge of a bucket reads, by its row groups
sorting   contents that are stale, to find the distinct ones
encoder   a text of the synthetic catalog through the cheapest encoder there is

No Ray is started. Everything is written to a temporary folder on the local disk and removed.
"""

import json
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.catalogs import synthetic
from benchmarks.running import new_workspace
from benchmarks.stored import hashes_of, name_encoders, write_products
from mmbatch import schema
from mmbatch.catalog import STAGED, Catalog, stage
from mmbatch.encoders import encode
from mmbatch.encoders.ngram import NgramText
from mmbatch.image_access import ImageAccess
from mmbatch.models import Model
from mmbatch.pipelines.extract import stale_counts, store_of
from mmbatch.pipelines.ingest import assign_splits
from mmbatch.pipelines.merging import merge_bucket, tables_of
from mmbatch.pipelines.predict import outdated
from mmbatch.pipelines.publish import _compare_bucket, _merged, lineage_of
from mmbatch.pipelines.staging import StagingWriter, read_staged
from mmbatch.predictions import Predictions
from mmbatch.presets import preset_named
from mmbatch.quarantine import Scope
from mmbatch.sample import write_sample
from mmbatch.schema import Modality
from mmbatch.sources import list_files, plan_units, read_unit
from mmbatch.stale import UNIT_CONTENTS
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace

LOG_FILES = (1_000, 10_000, 100_000)
"""Files of a table, three orders of magnitude: one file a bucket of 20 million to two billion products."""

PRODUCTS = 80_000
"""Of the workspace that is planned: four full buckets."""

ROWS = 10_000
"""Of a source that is taken in."""

ROW_GROUPS, STAGED_FILES = 500, 40
"""A staged file has a row group for each bucket of which it has rows."""

SORTED = 1_000_000
"""Contents that are sorted."""

ENCODERS: dict[str, tuple[Modality, int]] = {"minilm": ("text", 384), "efficientnet-lite0": ("image", 1280)}


def spent(work: Callable[[], Any]) -> float:
    """Processor seconds of a call, all threads of the process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def entries(files: int) -> list[FileEntry]:
    """Entries of files that are not there."""
    return [FileEntry(f"bucket={at}/{uuid.uuid4().hex}.parquet", 1_000, 800_000, at) for at in range(files)]


def log_seconds(folder: Path, files: int) -> dict[str, float]:
    """Of a table with so many files: processor seconds of `open`, `snapshot` and `commit`, and memory of a snapshot.

    The memory is that of Python's objects; what deltalake holds while it lists the files comes on top.
    """
    table = Table(str(folder / f"log-{files}"), schema.FEATURES)
    table.commit(entries(files), app_id="made")
    table.checkpoint()
    found = {"open": _typical(table.version), "snapshot": _typical(table.snapshot)}
    commits = [spent(partial(table.commit, entries(16), app_id="more", version=number)) for number in range(5)]
    tracemalloc.start()
    held = table.snapshot()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return found | {"commit": float(np.median(commits)), "bytes_of_an_entry": size / len(held.entries)}


def _typical(work: Callable[[], Any]) -> float:
    return float(np.median([spent(work) for _ in range(3)]))


def planned(folder: Path) -> dict[str, float]:
    """Processor seconds by product of `stale_counts` and `outdated`, nothing being stale or outdated."""
    workspace = new_workspace(folder, preset="flipkart-small", rows=PRODUCTS)
    models = name_encoders(workspace, ENCODERS)
    for bucket in range(workspace.settings.buckets):
        numbers = np.arange(bucket, PRODUCTS, workspace.settings.buckets)
        nothing = np.zeros(len(numbers), int)
        write_products(workspace, bucket, numbers, codes=nothing, labelled=nothing == 1, splits=("train",))
        for model in models:
            _write_units(workspace, model, bucket, numbers)
    catalog = Catalog(workspace=workspace)
    found = {"stale": spent(lambda: stale_counts(catalog.pinned(), models)) / PRODUCTS}
    _publish(workspace, catalog)
    predictor = Model(kind="predictor", id="made@0", uri=workspace.path("models", "predictor", "made@0"), card={})
    found["outdated"] = spent(lambda: outdated(workspace, predictor)) / PRODUCTS
    return found | {"publish": _published(workspace) / PRODUCTS}


def _published(workspace: Workspace) -> float:
    """Processor seconds of merging and comparing every bucket with staged predictions of all its products."""
    predictions, catalog = Predictions(workspace=workspace).pinned(), Catalog(workspace=workspace).pinned()
    rows = predictions.published().read()
    staged = predictions.staged("made")
    staged.commit(staged.write_buckets(rows), app_id="made")
    sides = partial(_merged, catalog=catalog, predictions=predictions, staged=staged.snapshot())
    lineage = lineage_of(workspace)
    work = partial(_compare_bucket, predictions=predictions, sides_of=sides, lineage=lineage, run_id="made")
    return sum(spent(partial(work, {"bucket": at, "touched": True})) for at in range(workspace.settings.buckets))


def _write_units(workspace: Workspace, model: Model, bucket: int, numbers: np.ndarray) -> None:
    """A bucket's vectors, one file a unit of work, as extraction leaves them."""
    store, modality = store_of(workspace, model), model.card["modality"]
    ids, hashes = Catalog(workspace=workspace).keys([bucket])["product_id"], hashes_of(numbers, modality)
    size, files = UNIT_CONTENTS[modality], []
    for start in range(0, len(numbers), size):
        vectors = np.ones((len(numbers[start : start + size]), model.card["width"]), np.float16)
        unit = ids.slice(start, size).combine_chunks()
        files.append(store.write(unit, hashes.slice(start, size), vectors, bucket=bucket))
    store.table.commit(files, app_id=f"made-{bucket}")


def _publish(workspace: Workspace, catalog: Catalog) -> None:
    """Predictions of every product, of the columns that tell whether they stand."""
    table = Predictions(workspace=workspace).table
    keys = catalog.keys()
    known = {name: keys[name] for name in keys.column_names if name in table.schema.names}
    known["predictor"] = pa.repeat("made@0", keys.num_rows)
    known["quarantined"] = pa.nulls(keys.num_rows, pa.list_(pa.string())).fill_null([])
    columns = [known.get(name, pa.nulls(keys.num_rows)) for name in table.schema.names]
    rows = pa.table(columns, names=table.schema.names).cast(table.schema)
    table.commit(table.write_buckets(rows), app_id="made")


def taken_in(folder: Path, source: Path) -> dict[str, float]:
    """Processor seconds by row of a source: `stage`, what an ingest's first pass does, and `merge`, its second."""
    workspace = new_workspace(folder, preset="sample", rows=ROWS)
    catalog, columns, files = Catalog(workspace=workspace), preset_named("sample").columns, list_files(str(source))
    buckets, staging = workspace.settings.buckets, workspace.path("tmp", "made")

    def read() -> None:
        for unit in plan_units(files, columns):
            writer = StagingWriter(f"{staging}/rows/{unit.index:08d}")
            for checked in read_unit(unit, columns, access=ImageAccess()):
                writer.add(stage(checked.rows, source=unit.file, unit=unit.index, buckets=buckets))
            writer.flush()

    def merge() -> None:
        scope = Scope(files=tuple(files))
        work = partial(merge_bucket, catalog=catalog, scope=scope, staging=staging, run_id="made")
        found = [file for bucket in range(buckets) for done in work({"bucket": bucket}) for file in done["files"]]
        for name, table in tables_of(catalog).items():
            fields = ("path", "rows", "size", "bucket")
            wanted = [FileEntry(**{key: file[key] for key in fields}) for file in found if file["table"] == name]
            table.commit(wanted, app_id="made")

    return {
        "stage": spent(read) / ROWS,
        "merge": spent(merge) / ROWS,
        "split": spent(lambda: assign_splits(catalog)) / ROWS,
    }


def footer_seconds(folder: Path) -> float:
    """Processor seconds by staged file and row group of reading one bucket's rows, as every merge does."""
    columns = {name: pa.nulls(ROW_GROUPS) for name in STAGED.names}
    columns |= {"product_id": [f"p{number}" for number in range(ROW_GROUPS)], "bucket": list(range(ROW_GROUPS))}
    rows = pa.table(columns).cast(pa.schema([field.with_nullable(True) for field in STAGED]))
    for number in range(STAGED_FILES):
        writer = StagingWriter(f"{folder}/staged/{number:08d}")
        writer.add(rows)
        writer.flush()
    return _typical(partial(read_staged, f"{folder}/staged", STAGED, 7)) / (STAGED_FILES * ROW_GROUPS)


def sort_seconds() -> float:
    """Processor seconds by content of finding the distinct ones, as planning does on the driver."""
    contents = np.frombuffer(np.random.default_rng(0).bytes(16 * SORTED), "S16")
    return spent(partial(np.unique, contents, return_index=True, return_inverse=True)) / SORTED


def encoded() -> float:
    """Processor seconds of the cheapest encoder there is for a text, prepared and encoded in units."""
    encoder = NgramText.from_scratch(buckets=256, width=8, seed=0).eval()
    size = UNIT_CONTENTS["text"]
    texts = [f"black charger {number}" for number in range(size)]
    content = pa.table({"title": texts, "description": ["A black charger for every day"] * size})
    encode(encoder, encoder.prepare(content).inputs, "cpu")
    return spent(lambda: encode(encoder, encoder.prepare(content).inputs, "cpu")) / size


def measured(folder: Path) -> dict[str, Any]:
    """All of it."""
    figures: dict[str, Any] = {f"log {files}": log_seconds(folder, files) for files in LOG_FILES}
    figures["staged footer, by row group"] = footer_seconds(folder)
    figures["sorting, by content"] = sort_seconds()
    figures["cheapest encoder, by text"] = encoded()
    figures["planning, by product"] = planned(folder / "planning")
    (folder / "synthetic").mkdir()
    synthetic(folder / "synthetic", rows=ROWS)
    write_sample(str(folder / "sample"), rows=ROWS, seed=0)
    for name in ("synthetic", "sample"):
        figures[f"intake of {name}, by row"] = taken_in(folder / f"{name}-workspace", folder / name)
    return figures


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(Path(folder)), indent=1))


if __name__ == "__main__":
    main()

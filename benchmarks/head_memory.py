"""Whether head training streams: peak memory of `jobs.train_head` as the labelled products grow.

    python -m benchmarks.head_memory --folder DIR --rows 200000 400000 800000

Writes a workspace of each size whose products have random vectors of three encoders (384, 768 and 1,280 numbers),
trains one epoch of an addition head on it, and prints seconds, the bytes of the vectors and the peak of all processes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.footprint import measure
from benchmarks.running import report
from mmbatch import schema
from mmbatch.catalog import Catalog
from mmbatch.models import Model, publish_model
from mmbatch.pipelines.extract import store_of
from mmbatch.workspace import Settings, Workspace

ENCODERS = {"short-text": ("text", 384), "long-text": ("text", 768), "photo": ("image", 1280)}
BUCKETS, CATEGORIES = 64, 50


def write_workspace(folder: Path, rows: int) -> None:
    """Labelled products, nine of ten train rows, with noise for vectors."""
    workspace = Workspace.create(str(folder), Settings(preset="sample", level=1, seed=0, buckets=BUCKETS))
    models = []
    for name, (modality, width) in ENCODERS.items():
        made = folder.parent / f"{name}.files"
        made.mkdir(exist_ok=True)
        (made / "none.txt").write_text(name)
        card = {"modality": modality, "width": width}
        models.append(
            publish_model(
                workspace, kind="encoder", name=name, folder=made, identity=["none.txt"], recipe="", card=card
            )
        )
    for bucket in range(BUCKETS):
        _write_bucket(workspace, models, bucket, np.arange(bucket, rows, BUCKETS))


def _write_bucket(workspace: Workspace, models: list[Model], bucket: int, numbers: np.ndarray) -> None:
    catalog, rng = Catalog(workspace=workspace), np.random.default_rng(bucket)
    ids = pa.array([f"p{number:09d}" for number in numbers])
    same = pa.repeat(pa.scalar(bucket, pa.int32()), len(ids))
    hashes = {modality: pa.array([f"{modality}{number}" for number in numbers]) for modality in ("text", "image")}
    known = {"product_id": ids, "label": pa.array([[f"c{number % CATEGORIES}"] for number in numbers]), "bucket": same}
    known |= {"text_hash": hashes["text"], "image_hash": hashes["image"]}
    columns = [known.get(name, pa.nulls(len(ids))) for name in schema.CATALOG.names]
    rows = pa.table(columns, names=schema.CATALOG.names).cast(schema.CATALOG)
    catalog.table.commit([catalog.table.write_file(rows, bucket=bucket)], app_id=f"made-{bucket}")
    held = {0: "fusion", 10: "test"}
    splits = pa.array([held.get(number % 20, "train") for number in (numbers // BUCKETS).tolist()])
    drawn = pa.table({"product_id": ids, "split": splits, "bucket": same}, schema=schema.SPLIT)
    catalog.splits.commit([catalog.splits.write_file(drawn, bucket=bucket)], app_id=f"made-{bucket}")
    for model in models:
        store = store_of(workspace, model)
        vectors = rng.standard_normal((len(ids), store.width), np.float32).astype(np.float16)
        file = store.write(ids, hashes[store.modality], vectors, bucket=bucket)
        store.table.commit([file], app_id=f"made-{bucket}")


def main() -> None:
    """Train on each size and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--rows", required=True, nargs="+", type=int)
    flags = parser.parse_args()
    for rows in flags.rows:
        folder = flags.folder / str(rows)
        write_workspace(folder, rows)
        job = [sys.executable, "-m", "jobs.train_head", "--workspace", str(folder), "--heads", "addition"]
        found = measure([*job, "--training", "epochs=1"])
        stored = rows * 2 * sum(width for _, width in ENCODERS.values())
        peak = f"peak {found.peak_bytes / 2**30:.2f} GiB"
        report(
            f"{rows} rows, {stored / 1e9:.1f} GB of vectors: {found.seconds:.0f} s, {peak}",
            {"rows": rows, "seconds": found.seconds, "peak_bytes": found.peak_bytes, "exit": found.returncode},
        )


if __name__ == "__main__":
    main()

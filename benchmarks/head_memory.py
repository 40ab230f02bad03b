"""Whether head training streams: peak memory of `jobs.train_head` as the labelled products grow.

    python -m benchmarks.head_memory --folder DIR --rows 200000 400000 800000

Writes a workspace of each size whose products have random vectors of three encoders (384, 768 and 1,280 numbers),
trains one epoch of an addition head on it, and prints seconds, the bytes of the vectors and the peak of all processes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.footprint import measure
from benchmarks.running import report
from benchmarks.stored import name_encoders, write_products, write_vectors
from mmbatch.schema import Modality, Split
from mmbatch.workspace import Settings, Workspace

ENCODERS: dict[str, tuple[Modality, int]] = {
    "short-text": ("text", 384),
    "long-text": ("text", 768),
    "photo": ("image", 1280),
}
BUCKETS, CATEGORIES = 64, 50
SPLITS: tuple[Split, ...] = ("fusion", "test", *("train",) * 18)


def write_workspace(folder: Path, rows: int) -> None:
    """Labelled products, nine of ten train rows, with noise for vectors."""
    workspace = Workspace.create(str(folder), Settings(preset="sample", level=1, seed=0, buckets=BUCKETS))
    models = name_encoders(workspace, ENCODERS)
    for bucket in range(BUCKETS):
        numbers, rng = np.arange(bucket, rows, BUCKETS), np.random.default_rng(bucket)
        every = np.ones(len(numbers), bool)
        write_products(workspace, bucket, numbers, codes=numbers % CATEGORIES, labelled=every, splits=SPLITS)
        for model in models:
            vectors = rng.standard_normal((len(numbers), model.card["width"]), np.float32)
            write_vectors(workspace, model, bucket, numbers, vectors)


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

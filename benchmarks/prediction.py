"""What predicting from stored features costs: rows a second beside head and booster alone, memory, a new head.

    python -m benchmarks.prediction rate   --folder DIR [--rows 1000000]
    python -m benchmarks.prediction memory --folder DIR [--rows 1000000]
    python -m benchmarks.prediction head   --folder DIR --extraction 65 [--rows 1000000]

rate    `jobs.predict` of the whole catalog, and `Predictor.predict` alone on the same vectors in memory, a process a
        processor, a bucket at a time as the job does; before and after the job, as a machine is not equally fast at
        all times
memory  peak memory of `jobs.predict` for a tenth of the rows and for all
head    the whole catalog predicted by a second predictor over the same features, beside extracting all of it again at a
        rate that was measured (`benchmarks.throughput`, products a second)

The products are made up: 27 categories, a text vector of 384 and an image vector of 1,280 numbers, of which each names
the category where it is sure and any category where it is less so; one product in twenty has no image. Probes, head,
boosted late fusion and thresholds are trained by the jobs on the first 40,000 products, which are labelled
(24,000 train, 8,000 fusion and 4,000 calibration rows, as of a catalog like Rakuten's). `--folder`
is new. A job's rate from its first bucket on is by its own lines of progress.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.running import Finished, report, run_job
from benchmarks.stored import name_encoders, write_products, write_vectors
from mmbatch.catalog import Catalog
from mmbatch.errors import MmbatchError
from mmbatch.models import Model, newest_predictor
from mmbatch.pipelines.cluster import ALLOCATOR
from mmbatch.pipelines.predict import read_features
from mmbatch.predictions import Predictions
from mmbatch.predictor import Features, Predictor, load_predictor
from mmbatch.schema import Modality, Split
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Settings, Workspace, buckets_for

ENCODERS: dict[str, tuple[Modality, int]] = {"minilm": ("text", 384), "efficientnet-lite0": ("image", 1280)}
CATEGORIES, LABELLED = 27, 40_000
SPLITS: tuple[Split, ...] = (
    *("train",) * 12,
    *("fusion",) * 4,
    *("calibration",) * 2,
    "golden",
    "test",
)
SURE, UNSURE = 0.4, 0.2
"""How much of a vector's length names a category, before noise: where it is right, and where it may be any."""

_PROGRESS = re.compile(r"(?P<stage>\w+) +(?P<done>[\d,]+) / (?P<total>[\d,]+) ")


def write_workspace(folder: Path, rows: int) -> Workspace:
    """A workspace of the preset flipkart-small with catalog, splits and features."""
    settings = Settings(preset="flipkart-small", level=1, seed=0, buckets=buckets_for(rows))
    workspace = Workspace.create(str(folder), settings)
    models = name_encoders(workspace, ENCODERS)
    centres = {
        name: np.random.default_rng(width).standard_normal((CATEGORIES, width), np.float32)
        for name, (_, width) in ENCODERS.items()
    }
    for bucket in range(settings.buckets):
        numbers, rng = np.arange(bucket, rows, settings.buckets), np.random.default_rng([bucket, rows])
        codes, imageless = rng.integers(CATEGORIES, size=len(numbers)), rng.random(len(numbers)) < 0.05
        write_products(
            workspace, bucket, numbers, codes=codes, labelled=numbers < LABELLED, splits=SPLITS, imageless=imageless
        )
        for model in models:
            there = ~imageless if model.card["modality"] == "image" else np.ones(len(numbers), bool)
            vectors = _vectors(rng, codes[there], centres[model.name])
            write_vectors(workspace, model, bucket, numbers[there], vectors)
    return workspace


def _vectors(rng: np.random.Generator, codes_N: np.ndarray, centres_CW: np.ndarray) -> np.ndarray:
    """Vectors float32 `[N, width]` of products of these categories."""
    sure_N = rng.random(len(codes_N)) < 0.8
    said_N = np.where(sure_N, codes_N, rng.integers(CATEGORIES, size=len(codes_N)))
    strength_N = np.where(sure_N, SURE, UNSURE) * rng.uniform(0.5, 1.5, len(codes_N))
    noise_NW = rng.standard_normal((len(codes_N), centres_CW.shape[1]), np.float32)
    scaled_N = (strength_N * np.sqrt(384 / centres_CW.shape[1])).astype(np.float32)
    return noise_NW + scaled_N[:, None] * centres_CW[said_N]


def train(workspace: Workspace, *, epochs: int = 3) -> Model:
    """Head and boosted late fusion by their jobs; `MmbatchError` where boosting was not kept."""
    run_job("train_head", workspace.uri, "--training", f"epochs={epochs}")
    run_job("train_late_fusion", workspace.uri, "--precision", "0.9")
    model = newest_predictor(workspace)
    if not model.card["late_fusion"]["rounds"]:
        raise MmbatchError(f"{model.uri}: boosting was not kept, so there is nothing to compare with")
    return model


def rate(folder: Path, rows: int) -> dict[str, Any]:
    """The job beside what cannot be saved."""
    workspace = write_workspace(folder / "workspace", rows)
    model = train(workspace)
    before = alone(workspace)
    job = figures_of(run_job("predict", workspace.uri), workspace)
    after = alone(workspace)
    limit = (before + after) / 2
    return {
        "late_fusion": model.card["late_fusion"],
        "decisions": model.card["decisions"],
        "alone_per_s": [round(before), round(after)],
        "job": job,
        "ratio_whole": round(job["per_s"] / limit, 3),
        "ratio_from_first_bucket": round(job["per_s_from_first_bucket"] / limit, 3),
    }


def figures_of(done: Finished, workspace: Workspace) -> dict[str, Any]:
    """Of a `jobs.predict`: seconds, rows a second, peak memory, share of the predictions that are explained."""
    predicted, lines = done.counts["predicted"], staged_lines(done.lines)
    (first, some), (last, total) = lines[0], lines[-1]
    explained = Predictions(workspace=workspace).table.read(["modality_text"])["modality_text"]
    return {
        "predicted": predicted,
        "seconds": round(done.seconds, 1),
        "peak_gib": round(done.peak_bytes / 2**30, 2),
        "per_s": round(predicted / done.seconds),
        "per_s_from_first_bucket": round((total - some) / (last - first)) if last > first else None,
        "staging_seconds": round(last - first, 1),
        "explained": round(1 - explained.null_count / len(explained), 4),
    }


def staged_lines(lines: Sequence[tuple[float, str]]) -> list[tuple[float, int]]:
    """Clock and products done of each line of progress of the prediction."""
    found = [(clock, _PROGRESS.match(line)) for clock, line in lines]
    return [
        (clock, int(match["done"].replace(",", ""))) for clock, match in found if match and match["stage"] == "predict"
    ]


def alone(workspace: Workspace) -> float:
    """Products a second of `Predictor.predict`, a process a processor, on vectors that are in memory."""
    os.environ.update(ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    processes, buckets = os.cpu_count() or 1, range(workspace.settings.buckets)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with context.Pool(processes, _share, (ready,)) as pool:
        shares = [(workspace, list(buckets)[place::processes]) for place in range(processes)]
        found = pool.starmap(_predict_alone, shares, chunksize=1)
    rows, starts, ends = zip(*found, strict=True)
    return float(sum(rows) / (max(ends) - min(starts)))


_READY: list[Any] = []


def _share(ready: Any) -> None:
    _READY.append(ready)


def _predict_alone(workspace: Workspace, buckets: list[int]) -> tuple[int, float, float]:
    """Products, and the clock at the beginning and at the end; runs in a process of its own."""
    predictor = load_predictor(newest_predictor(workspace), TaxonomyHistory.read(workspace))
    held = [_held(workspace, predictor, bucket) for bucket in buckets]
    predictor.predict({name: (vectors[:9], there[:9]) for name, (vectors, there) in held[0].items()})
    _READY[0].wait()
    started = time.monotonic()
    rows = sum(len(predictor.predict(features)[1]) for features in held)
    return rows, started, time.monotonic()


def _held(workspace: Workspace, predictor: Predictor, bucket: int) -> Features:
    return read_features(Catalog(workspace=workspace).keys([bucket]), predictor, workspace, bucket)


def memory(folder: Path, rows: int) -> dict[str, Any]:
    """Ten times the rows by the same predictor, the same memory?"""
    figures: dict[str, Any] = {}
    for count in (rows // 10, rows):
        workspace = write_workspace(folder / str(count), count)
        if figures:
            shutil.copytree(folder / str(rows // 10) / "models", folder / str(count) / "models", dirs_exist_ok=True)
        else:
            train(workspace)
        figures[str(count)] = figures_of(run_job("predict", workspace.uri), workspace)
    small, large = (found["peak_gib"] for found in figures.values())
    return figures | {"ratio": round(large / small, 3)}


def head(folder: Path, rows: int, extraction: float) -> dict[str, Any]:
    """A new head over everything that is published."""
    workspace = write_workspace(folder / "workspace", rows)
    figures: dict[str, Any] = {}
    for name, epochs in (("first", 3), ("new_head", 4)):
        trained = time.monotonic()
        train(workspace, epochs=epochs)
        trained = time.monotonic() - trained
        figures[name] = {"training_seconds": round(trained, 1)}
        figures[name] |= figures_of(run_job("predict", workspace.uri), workspace)
    again = rows / extraction
    seconds = figures["new_head"]["seconds"]
    return figures | {"extraction_seconds": round(again), "times_faster": round((again + seconds) / seconds, 1)}


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["rate", "memory", "head"])
    parser.add_argument("--folder", required=True, type=Path, help="new folder, left as it is at the end")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--extraction", type=float, help="head: products a second of extracting all of it again")
    flags = parser.parse_args()
    if (flags.kind == "head") != (flags.extraction is not None):
        parser.error("--extraction is for head, which needs it")
    flags.folder.mkdir(parents=True)
    folder = flags.folder.resolve()
    if flags.kind == "head":
        figures = head(folder, flags.rows, flags.extraction)
    else:
        figures = {"rate": rate, "memory": memory}[flags.kind](folder, flags.rows)
    report(f"{flags.kind}: {flags.rows:,} products", {"kind": flags.kind, "rows": flags.rows, **figures})


if __name__ == "__main__":
    main()

"""What predicting from stored features costs: rows a second beside head and booster alone, memory, a new head.

    python -m benchmarks.prediction --folder DIR --extraction 65 [--rows 1000000]

small     `jobs.predict` of a tenth of the products, for its peak memory
large     `jobs.predict` of all of them, by the same predictor, and its rows a second over those of `Predictor.predict`
          alone on vectors in memory, a process a processor, a bucket at a time as the job does; measured before and
          after the job, as a machine is not equally fast at all times
worker    processor seconds of `Predictor.predict` over those of a job's whole work on the same buckets, in turn
new head  the whole catalog predicted by a second predictor over the same features, and how much longer extracting all
          of it again would take at a rate that was measured (`--extraction`, products a second by
          `benchmarks.throughput`)

The products are made up: 27 categories, a text vector of 384 and an image vector of 1,280 numbers, of which each names
the category where it is sure and any category where it is less so; one product in twenty has no image. Probes, head,
boosted late fusion and thresholds are trained by the jobs on the first 40,000 products, which are labelled (24,000
train, 8,000 fusion and 4,000 calibration rows, as of a catalog like Rakuten's). `--folder` is new. A job's rate from
its first bucket on is by its own lines of progress, so that what was under way when it wrote the first is in it too.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.running import Finished, report, run_job
from benchmarks.stored import name_encoders, write_products, write_vectors
from mmbatch.catalog import Catalog
from mmbatch.errors import MmbatchError
from mmbatch.fusion.abstaining import REVIEW
from mmbatch.models import Model, newest_predictor
from mmbatch.pipelines.cluster import ALLOCATOR, remove_folder
from mmbatch.pipelines.predict import Inputs, _predict_bucket, read_features
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
BUCKETS_ALONE = 8
"""Whose vectors are held in memory."""

SURE, UNSURE = 0.4, 0.2
"""How much of a vector's length names a category, before noise: where it is right, and where it may be any."""

_PROGRESS = re.compile(r"(?P<stage>\w+) +(?P<done>[\d,]+) / (?P<total>[\d,]+) ")


def write_workspace(folder: Path, rows: int, *, labelled: int = LABELLED) -> Workspace:
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
            workspace, bucket, numbers, codes=codes, labelled=numbers < labelled, splits=SPLITS, imageless=imageless
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
    found_NW: np.ndarray = noise_NW + scaled_N[:, None] * centres_CW[said_N]
    return found_NW


def train(workspace: Workspace, *, epochs: int = 3) -> Model:
    """Head and boosted late fusion by their jobs; `MmbatchError` where boosting was not kept."""
    run_job("train_head", workspace.uri, "--training", f"epochs={epochs}")
    run_job("train_late_fusion", workspace.uri, "--precision", "0.95")
    model = newest_predictor(workspace)
    if not model.card["late_fusion"]["rounds"]:
        raise MmbatchError(f"{model.uri}: boosting was not kept, so there is nothing to compare with")
    return model


def measured(folder: Path, rows: int, extraction: float) -> dict[str, Any]:
    """All of it."""
    small = write_workspace(folder / "small", rows // 10)
    model = train(small)
    figures: dict[str, Any] = {"late_fusion": model.card["late_fusion"], "decisions": model.card["decisions"]}
    figures["small"] = figures_of(run_job("predict", small.uri), small)
    large = write_workspace(folder / "large", rows)
    shutil.copytree(folder / "small" / "models", folder / "large" / "models", dirs_exist_ok=True)
    figures["worker"] = worker_ratios(large)
    before = alone(large)
    figures["large"] = job = figures_of(run_job("predict", large.uri), large)
    figures["alone_per_s"] = [round(before), round(alone(large))]
    limit = sum(figures["alone_per_s"]) / 2
    figures["ratio_whole"] = round(job["per_s"] / limit, 3)
    figures["ratio_from_first_bucket"] = round(job["per_s_from_first_bucket"] / limit, 3)
    figures["memory_ratio"] = round(job["peak_gib"] / figures["small"]["peak_gib"], 3)
    started = time.monotonic()
    train(large, epochs=4)
    trained = time.monotonic() - started
    figures["new_head"] = again = figures_of(run_job("predict", large.uri), large)
    figures["new_head_training_seconds"] = round(trained)
    figures["times_faster"] = round(rows / extraction / again["seconds"], 1)
    return figures


def figures_of(done: Finished, workspace: Workspace) -> dict[str, Any]:
    """Of a `jobs.predict`: seconds, rows a second, peak memory, share of the predictions that are explained.

    `peak_gib` is of all processes, `driver_gib` of the job's own.
    """
    predicted, lines = done.counts["predicted"], staged_lines(done.lines)
    (first, some), (last, total) = lines[0], lines[-1]
    explained = Predictions(workspace=workspace).table.read(["modality_text"])["modality_text"]
    return {
        "predicted": predicted,
        "seconds": round(done.seconds, 1),
        "peak_gib": round(done.peak_bytes / 2**30, 2),
        "driver_gib": round(done.driver_bytes / 2**30, 2),
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
    processes, buckets = os.cpu_count() or 1, range(min(workspace.settings.buckets, BUCKETS_ALONE))
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with context.Pool(processes, _share, (ready,)) as pool:
        shares = [(workspace, list(buckets)[place::processes]) for place in range(processes)]
        found = pool.starmap(_predict_alone, shares, chunksize=1)
    rows, starts, ends = zip(*found, strict=True)
    return float(sum(rows) / (max(ends) - min(starts)))


_READY: list[Any] = []


def _share(ready: Any) -> None:
    os.nice(15)  # as Ray's workers: beside other work they are given less of a processor
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


def worker_ratios(workspace: Workspace) -> dict[str, float]:
    """Processor seconds of `Predictor.predict` over those of `_predict_bucket`, of a few buckets, in turn.

    Of the latter, what explaining the products for review takes is measured too: the limit does not explain.
    """
    model, history = newest_predictor(workspace), TaxonomyHistory.read(workspace)
    predictor, run_id = load_predictor(model, history), "benchmark"
    inputs = Inputs.pinned(workspace, model)
    work = partial(_predict_bucket, inputs=inputs, model=model, history=history, run_id=run_id, explain="needed")
    work({"bucket": 0})
    seconds = dict.fromkeys(("alone", "explaining", "whole"), 0.0)
    for bucket in range(1, 1 + min(4, workspace.settings.buckets - 1)):
        features = _held(workspace, predictor, bucket)
        clock = time.process_time()
        scored = predictor.score(features)
        joined = predictor.calibrated(scored)[1]
        seconds["alone"] += time.process_time() - clock
        review = predictor.decide(joined).kind == REVIEW
        clock = time.process_time()
        predictor.explain(scored.of(review))
        seconds["explaining"] += time.process_time() - clock
        clock = time.process_time()
        work({"bucket": bucket})
        seconds["whole"] += time.process_time() - clock
    remove_folder(Predictions(workspace=workspace).staged(run_id).uri)
    ratio = seconds["alone"] / seconds["whole"]
    without = seconds["alone"] / (seconds["whole"] - seconds["explaining"])
    return {f"{name}_s": round(value, 2) for name, value in seconds.items()} | {
        "ratio": round(ratio, 3),
        "ratio_without_explaining": round(without, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="new folder, left as it is at the end")
    parser.add_argument("--extraction", required=True, type=float, help="products a second of extracting all again")
    parser.add_argument("--rows", type=int, default=1_000_000)
    flags = parser.parse_args()
    os.environ.update(ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    flags.folder.mkdir(parents=True)
    figures = measured(flags.folder.resolve(), flags.rows, flags.extraction)
    report(f"{flags.rows:,} products", {"rows": flags.rows, **figures})


if __name__ == "__main__":
    main()

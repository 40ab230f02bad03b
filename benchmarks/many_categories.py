"""Late fusion of many categories: what fitting takes in time and memory, and how far predicting is from LightGBM alone.

    python -m benchmarks.many_categories [--categories 4000 --rows 8000 --objective candidates]

Made-up models: each is right where it is very sure, and names any category where it is less so. `--objective
multiclass` is the paper's form, for few categories. Prints seconds of fitting with its cross-validation, the peak of
the process, rows per second of prediction and of the booster alone on rows that are made already, and their ratio.
"""

import argparse
import resource
import time

import numpy as np
from scipy.special import softmax

from benchmarks.running import report
from mmbatch.fusion.late import LateFusion
from mmbatch.presets import preset_named
from mmbatch.training import LateFusionRecipe

MODELS = 3


def scores_of(rows: int, categories: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 `[N, M, C]` and codes int64 `[N]`."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(categories, size=rows)
    scores = np.empty((rows, MODELS, categories), np.float32)
    for model in range(MODELS):
        logits = rng.standard_normal((rows, categories), np.float32)
        sure = rng.random(rows) < 0.5
        said = np.where(sure, codes, rng.integers(categories, size=rows))
        logits[np.arange(rows), said] += np.log(categories) + np.where(sure, 4, 2) * rng.uniform(0.5, 1.5, rows)
        scores[:, model] = softmax(logits, axis=1)
    return scores, codes


def main() -> None:
    """Fit, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--categories", type=int, default=4_000)
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--objective", choices=["candidates", "multiclass"], default="candidates")
    flags = parser.parse_args()
    recipe = LateFusionRecipe() if flags.objective == "candidates" else preset_named("rakuten2020").late_fusion
    scores, codes = scores_of(flags.rows, flags.categories, seed=0)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    names = tuple(f"model{model}" for model in range(MODELS))
    late = LateFusion.fit(scores, codes, models=names, classes=flags.categories, recipe=recipe, seed=0, threads=1)
    fitted = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report(f"fit: {fitted:.1f} s, {late.report.describe()}; {late.report.rounds} rounds", {"fit_s": fitted})
    report(f"peak {peak / 2**20:.2f} GiB, {held / 2**20:.2f} GiB before it", {"peak_kib": peak, "before_kib": held})
    fresh, gold = scores_of(min(flags.rows, 4_000), flags.categories, seed=1)
    started = time.perf_counter()
    joined = late.predict(fresh)
    whole = len(fresh) / (time.perf_counter() - started)
    right = float((joined.argmax(axis=1) == gold).mean())
    best = max(float((fresh[:, model].argmax(axis=1) == gold).mean()) for model in range(MODELS))
    report(f"right on fresh rows: {right:.4f}, the best model {best:.4f}", {"right": right, "best": best})
    if late.boosting is None:
        report(f"{whole:,.0f} rows/s; no booster to compare with", {"rows_per_s": whole})
        return
    rows = late.boosting_rows(fresh)
    started = time.perf_counter()
    late.boosting.booster.predict(rows.table, raw_score=True, num_threads=1)
    alone = len(fresh) / (time.perf_counter() - started)
    figures = {"rows_per_s": whole, "booster_rows_per_s": alone, "ratio": whole / alone}
    report(f"{whole:,.0f} rows/s, the booster alone {alone:,.0f}: {whole / alone:.2f}", figures)


if __name__ == "__main__":
    main()

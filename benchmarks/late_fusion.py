"""What late fusion is worth beside its best input and plain averaging, what its confidence is worth, and what it costs.

    python -m benchmarks.late_fusion --workspaces DIR [DIR ...] [--precision 0.98] [--level 2]

Each workspace is one whose features are stored, as a rule the same catalog with another seed. Probes and the preset's
head are fitted on its train rows, the late fusion on its fusion rows; macro-F1 and log-loss are of the test rows. For
calibration and thresholds the test rows are dealt into two halves, each of which fits what the other is scored with, so
that no row scores what it fitted and figures are of all test rows. Prints a Markdown table, mean and standard deviation
over the workspaces.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from scipy.special import log_softmax

from benchmarks.running import report
from mmbatch.catalog import Catalog
from mmbatch.confidence_metrics import calibration_error
from mmbatch.fusion.abstaining import ACCEPTED, BACKED_OFF, Abstaining
from mmbatch.fusion.calibration import fit_temperature, scaled
from mmbatch.fusion.explanation import contributions
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.weighting import log_losses
from mmbatch.metrics import f1_scores
from mmbatch.models import newest_encoders
from mmbatch.pipelines.dealing import Deal
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.head_loop import HeadLoop, Trained
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.scored_rows import ScoredRows
from mmbatch.pipelines.train_late_fusion import fit_scorer
from mmbatch.presets import preset_named
from mmbatch.workspace import Workspace

Figures = dict[str, float]


def scored_rows(uri: str, level: int | None) -> ScoredRows:
    """Scores by the probes and the preset's head, trained in this process."""
    workspace = Workspace.open(uri)
    if level:
        workspace = replace(workspace, settings=replace(workspace.settings, level=level))
    labels, encoders = training_labels(Catalog(workspace=workspace)), newest_encoders(workspace)
    rows = FeatureRows(workspace, encoders, labels.categories, rows_per_bucket(labels))
    recipe = preset_named(workspace.settings.preset).head
    levels = Levels.of(labels.taxonomy, recipe.level_weights)
    inputs = {
        "widths": rows.widths,
        "modalities": {model.name: model.card["modality"] for model in encoders},
        "classes": levels.classes,
    }
    loop = HeadLoop(Deal(rows), recipe, levels, inputs, workspace.settings.seed, 0, torch.device("cpu"))
    head = loop.run(Trained(recipe.kinds[0]), keep=lambda _: None)
    return ScoredRows(rows, replace(fit_scorer(rows, levels, None), head=head))


def figures_of(uri: str, precision: float, level: int | None) -> Figures:
    """Of one workspace."""
    of = scored_rows(uri, level)
    workspace = of.rows.workspace
    recipe, classes = preset_named(workspace.settings.preset).late_fusion, len(of.rows.categories)
    scores, codes = of.sample("fusion")
    fit = {"models": of.scorer.models, "classes": classes, "seed": workspace.settings.seed, "threads": 1}
    late = LateFusion.fit(scores, codes, recipe=recipe, **fit)  # type: ignore[arg-type]
    tests, gold = of.sample("test")
    joined, weighted = late.predict(tests), late.weighting.log_probabilities(tests)
    best = max(late.report.inputs, key=lambda name: late.report.inputs[name].macro_f1)
    single = np.nan_to_num(tests[:, of.scorer.models.index(best)], nan=1 / classes)
    found = {
        "best single model (by the fusion rows)": _macro(gold, single),
        "average of the models": _macro(gold, np.nanmean(tests, axis=1)),
        "weighting": _macro(gold, weighted),
        "late fusion": _macro(gold, joined),
        "late fusion on its fusion rows (optimistic)": _macro(codes, late.predict(scores)),
        "log-loss, weighting": float(log_losses(weighted, gold).mean()),
        "log-loss, late fusion": float(log_losses(np.log(joined), gold).mean()),
        "boosting rounds": late.report.rounds,
    }
    return found | _confidence(joined, gold, of.scorer.levels.taxonomy, precision) | _cost(late, tests)


def _macro(gold: np.ndarray, scores: np.ndarray) -> float:
    return f1_scores(gold, scores.argmax(axis=1)).macro


def _confidence(joined: np.ndarray, gold: np.ndarray, taxonomy: Taxonomy, precision: float) -> Figures:
    """Calibration and decisions of each half of the rows by what the other half fitted."""
    half = np.random.default_rng(0).permutation(len(gold)) % 2
    logs, after = log_softmax(np.log(joined), axis=1), np.empty_like(joined)
    kind, right = np.empty(len(gold), np.int8), np.zeros(len(gold), bool)
    gold_paths = [taxonomy.paths[code] for code in gold]
    for side in (0, 1):
        mine, other = half == side, half != side
        temperature = fit_temperature(logs[other], gold[other])
        after[mine] = scaled(logs[mine], temperature)
        thresholds = Abstaining.fit(scaled(logs[other], temperature), gold[other], taxonomy, target=precision)
        decided = thresholds.decide(after[mine])
        kind[mine] = decided.kind
        for row, node in zip(np.flatnonzero(mine), decided.node, strict=True):
            right[row] = node >= 0 and gold_paths[row][: len(thresholds.nodes[node])] == thresholds.nodes[node]
    hits = joined.argmax(axis=1) == gold
    accepted, backed_off = kind == ACCEPTED, kind == BACKED_OFF
    return {
        "calibration error before, points": 100 * calibration_error(np.clip(joined.max(axis=1), 0, 1), hits),
        "calibration error after, points": 100 * calibration_error(np.clip(after.max(axis=1), 0, 1), hits),
        f"accepted at {100 * precision:g} %, share": float(accepted.mean()),
        "precision of the accepted": float(right[accepted].mean()) if accepted.any() else np.nan,
        "backed off, share": float(backed_off.mean()),
        "precision of the backed off": float(right[backed_off].mean()) if backed_off.any() else np.nan,
    }


def _cost(late: LateFusion, scores: np.ndarray) -> Figures:
    many = np.concatenate([scores] * (1 + 4_000 // len(scores)))[:4_000]
    started = time.perf_counter()
    chosen = late.predict(many).argmax(axis=1)
    predicted = time.perf_counter()
    contributions(late, many, chosen)
    explained = time.perf_counter()
    return {
        "predictions per second, one thread": len(many) / (predicted - started),
        "explanations per second, one thread": len(many) / (explained - predicted),
    }


def main() -> None:
    """Measure every workspace and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspaces", required=True, nargs="+")
    parser.add_argument("--precision", type=float, default=0.98)
    parser.add_argument("--level", type=int, help="depth of the categories; default: the workspace's")
    flags = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    for uri in flags.workspaces:
        figures = figures_of(uri, flags.precision, flags.level)
        report(f"{uri}: {figures}", {"workspace": uri, **figures})
        for name, value in figures.items():
            found[name].append(value)
    lines = ["| figure | mean ± standard deviation |", "|---|---|"]
    lines += [f"| {name} | {np.nanmean(values):.4f} ± {np.nanstd(values):.4f} |" for name, values in found.items()]
    report("\n".join(lines), {"table": lines})


if __name__ == "__main__":
    main()

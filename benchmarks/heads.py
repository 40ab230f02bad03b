"""What joining modalities gains: every kind of fusion head beside every single model, on the same stored features.

    python -m benchmarks.heads --workspaces DIR [DIR ...] [--training epochs=20 ...]

Each workspace is one that `jobs.pipeline` has filled, as a rule the same catalog with another `--seed`. Heads are
trained on the train rows with the preset's recipe, each with modality dropout and without; single models are linear
probes of the encoders. All are scored on the test rows as they are, without images and without texts: macro-F1, where a
product of which nothing is left counts as wrong. Prints a Markdown table, mean and standard deviation over the
workspaces, with how far each head is above the best single model, which the fusion rows choose.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import torch

from benchmarks.running import report
from jobs._recipe import changed
from mmbatch.catalog import Catalog
from mmbatch.fusion.head import FusionHead
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.probe import fit_probe, unit
from mmbatch.metrics import UNSCORED, f1_scores
from mmbatch.models import newest_encoders
from mmbatch.pipelines.dealing import Deal
from mmbatch.pipelines.feature_rows import FeatureRows, as_tensors, rows_per_bucket
from mmbatch.pipelines.head_loop import HeadLoop, Trained
from mmbatch.pipelines.rows import training_labels
from mmbatch.predictor import Features
from mmbatch.presets import preset_named
from mmbatch.schema import Split
from mmbatch.training import HeadKind, HeadRecipe
from mmbatch.workspace import Workspace

VARIANTS: Mapping[str, tuple[str, ...]] = {"all": (), "no image": ("image",), "no text": ("text",)}
"""Name -> modalities that are removed."""

Model = Callable[[Features], np.ndarray]
"""Features -> class codes int64 `[N]`."""

Scores = dict[str, dict[str, float]]
"""Model -> variant -> macro-F1 on the test rows; `fusion` is that on the fusion rows."""


def scores_of(uri: str, fields: Iterable[str]) -> Scores:
    """Of every model on the features of one workspace."""
    workspace = Workspace.open(uri)
    labels, encoders = training_labels(Catalog(workspace=workspace)), newest_encoders(workspace)
    rows = FeatureRows(workspace, encoders, labels.categories, rows_per_bucket(labels))
    recipe = changed(preset_named(workspace.settings.preset).head, list(fields))
    models: dict[str, Model] = {model.name: _probe(rows, model.name) for model in encoders}
    models |= _heads(rows, Levels.of(labels.taxonomy, recipe.level_weights), recipe)
    modalities = {model.name: str(model.card["modality"]) for model in encoders}
    return {
        name: {"fusion": _macro(rows, "fusion", model, modalities, ())}
        | {variant: _macro(rows, "test", model, modalities, gone) for variant, gone in VARIANTS.items()}
        for name, model in models.items()
    }


def _probe(rows: FeatureRows, name: str) -> Model:
    width = next(int(model.card["width"]) for model in rows.encoders if model.name == name)
    weight, bias = fit_probe(partial(rows.vectors, name), width=width, classes=len(rows.categories))

    def predict(features: Features) -> np.ndarray:
        vectors, present = features[name]
        return np.where(present, (unit(vectors) @ weight.T + bias).argmax(axis=1), UNSCORED)

    return predict


def _heads(rows: FeatureRows, levels: Levels, recipe: HeadRecipe) -> dict[str, Model]:
    inputs = {
        "widths": {model.name: int(model.card["width"]) for model in rows.encoders},
        "modalities": {model.name: model.card["modality"] for model in rows.encoders},
        "classes": levels.classes,
    }
    found: dict[str, Model] = {}
    for share in (recipe.modality_dropout, 0.0):
        for kind in get_args(HeadKind):
            used = replace(recipe, modality_dropout=share)
            loop = HeadLoop(Deal(rows), used, levels, inputs, rows.workspace.settings.seed, 0, torch.device("cpu"))
            head = loop.run(Trained(kind), keep=lambda _: None)
            found[kind if share else f"{kind}, no modality dropout"] = partial(_by_head, head, levels)
    return found


def _by_head(head: FusionHead, levels: Levels, features: Features) -> np.ndarray:
    with torch.inference_mode():
        said = levels.best(head(*as_tensors(features)))
    return np.where(np.any([present for _, present in features.values()], axis=0), said, UNSCORED)


def _macro(
    rows: FeatureRows, split: Split, model: Model, modalities: Mapping[str, str], gone: tuple[str, ...]
) -> float:
    gold, said = [], []
    for features, codes in rows.read(split):
        left = {name: (v, p & (modalities[name] not in gone)) for name, (v, p) in features.items()}
        gold.append(codes)
        said.append(model(left))
    return f1_scores(np.concatenate(gold), np.concatenate(said)).macro


def main() -> None:
    """Measure every workspace and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspaces", required=True, nargs="+")
    parser.add_argument("--training", nargs="*", default=())
    flags = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for uri in flags.workspaces:
        for name, scores in scores_of(uri, flags.training).items():
            found[name].append(scores)
            report(f"{uri} {name}: {scores}", {"workspace": uri, "model": name, **scores})
    singles = [name for name in found if name.split(",")[0] not in get_args(HeadKind)]
    best = [max((found[name][at] for name in singles), key=_by_fusion) for at in range(len(flags.workspaces))]
    columns = ["fusion", *VARIANTS]
    lines = [f"| model | {' | '.join(columns)} | above the best single model |", "|---" * (len(columns) + 2) + "|"]
    for name, each in found.items():
        cells = [_spread([one[column] for one in each]) for column in columns]
        gains = [one["all"] - single["all"] for one, single in zip(each, best, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if name in singles else _spread(gains, signed=True)} |")
    report("\n".join(lines), {"table": lines})


def _by_fusion(scores: dict[str, float]) -> float:
    return scores["fusion"]


def _spread(values: list[float], *, signed: bool = False) -> str:
    return f"{np.mean(values):{'+' if signed else ''}.4f} ± {np.std(values):.4f}"


if __name__ == "__main__":
    main()

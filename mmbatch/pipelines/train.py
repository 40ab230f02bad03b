"""Training on stored features: the fusion head on train rows, the late fusion on fusion rows, and the predictor.

No encoder runs here: every model's input is what the feature store holds.
"""

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.fusion.head import ConcatenationHead, load_head
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.probe import INVERSE_STRENGTH, fit_probe
from mmbatch.models import Kind, Model, digest_of, fetch_model, find_model, publish_model
from mmbatch.pipelines.cluster import run_task, start_ray
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.rows import Labels, by_bucket, training_labels
from mmbatch.predictor import HEAD_MODEL, EncoderPart, Features, Predictor, Scorer
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.schema import Split
from mmbatch.workspace import Workspace

PREDICTOR = "predictor"


def train_head(workspace: Workspace, encoders: Sequence[Model], *, recipe: Mapping[str, float]) -> Model | None:
    """Train the concatenation head on the stored features of the train rows, unless the workspace holds it already.

    Args:
        workspace: whose features and labels are learned.
        encoders: the encoders whose features it joins.
        recipe: fields of `mmbatch.presets.HeadRecipe`.

    Returns:
        The stored head; None when there is one encoder only, and so nothing to join.
    """
    if len(encoders) < 2:
        say("head       one encoder only: nothing to join, skipped")
        return None
    labels = training_labels(Catalog(workspace=workspace))
    made_from = [workspace.settings.seed, dict(recipe), _identity(encoders, labels)]
    digest = digest_of(made_from)
    if found := find_model(workspace, kind="head", name=HEAD_MODEL, recipe=digest):
        say(f"head       found {found.id}")
        return found
    run = Run(workspace=workspace, job="train_head", settings={"recipe": dict(recipe)})
    start_ray()
    model: Model = run_task(_train_head, workspace, tuple(encoders), dict(recipe), digest)
    run.finish({"model": model.id, **model.card["metrics"]})
    say(f"head       stored {model.id}, log-loss {model.card['metrics']['log_loss']:.4f} on the fusion rows")
    return model


def train_late_fusion(workspace: Workspace, encoders: Sequence[Model], head: Model | None) -> Model:
    """Fit the late fusion on the fusion rows' scores and store the predictor, unless the workspace holds it already."""
    labels = training_labels(Catalog(workspace=workspace))
    made_from = [workspace.settings.seed, _identity(encoders, labels), head.id if head else None, INVERSE_STRENGTH]
    digest = digest_of(made_from)
    if found := find_model(workspace, kind="predictor", name=PREDICTOR, recipe=digest):
        say(f"late       found {found.id}")
        return found
    run = Run(workspace=workspace, job="train_late_fusion")
    start_ray()
    model: Model = run_task(_train_late_fusion, workspace, tuple(encoders), head, digest)
    run.finish({"model": model.id, **model.card["late_fusion"]})
    say(f"late       stored {model.id}: {model.card['late_fusion']['rounds']} boosting rounds over the weighting")
    return model


def _identity(encoders: Sequence[Model], labels: Labels) -> list[Any]:
    modalities = sorted({model.card["modality"] for model in encoders})
    return [sorted(model.id for model in encoders), labels.digest(*modalities), labels.categories]


def _train_head(workspace: Workspace, encoders: Sequence[Model], recipe: dict[str, float], digest: str) -> Model:
    """Runs in a Ray task: minibatches by bucket, the epoch with the lowest log-loss on the fusion rows is kept."""
    torch.manual_seed(workspace.settings.seed)
    labels = training_labels(Catalog(workspace=workspace))
    data = FeatureRows(workspace, encoders, labels)
    widths = {model.name: int(model.card["width"]) for model in encoders}
    head = ConcatenationHead(
        widths=widths, classes=[len(labels.categories)], hidden=int(recipe["hidden"]), dropout=recipe["dropout"]
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"])
    epochs = int(recipe["epochs"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])
    best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), float("inf"), -1
    for epoch in range(epochs):
        head.train()
        for vectors, present, codes in data.train_batches(int(recipe["batch_size"]), epoch):
            optimizer.zero_grad(set_to_none=True)
            loss_of(head(vectors, present), codes).backward()
            optimizer.step()
        schedule.step()
        held_out = _log_loss(head, data)
        if held_out < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), held_out, epoch
    head.load_state_dict(best)
    card = {
        "encoders": [model.id for model in encoders],
        "categories": labels.categories,
        "metrics": {"split": "fusion", "log_loss": best_loss, "epoch": best_epoch},
        "training": recipe,
    }
    return _store(head.eval(), workspace, kind="head", name=HEAD_MODEL, recipe=digest, card=card)


def _store(
    made: ConcatenationHead | Predictor,
    workspace: Workspace,
    *,
    kind: Kind,
    name: str,
    recipe: str,
    card: dict[str, Any],
) -> Model:
    """Save to a local folder and publish it; every file decides the output."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made.save(folder)
        files = sorted(path.name for path in folder.iterdir())
        return publish_model(workspace, kind=kind, name=name, folder=folder, identity=files, recipe=recipe, card=card)


def _log_loss(head: ConcatenationHead, data: "FeatureRows") -> float:
    head.eval()
    total, rows = 0.0, 0
    with torch.inference_mode():
        for features, codes in data.read("fusion"):
            logits = head(*_tensors(features))
            total += nn.functional.cross_entropy(logits, torch.from_numpy(codes), reduction="sum").item()
            rows += len(codes)
    return total / rows


def _train_late_fusion(workspace: Workspace, encoders: Sequence[Model], head: Model | None, digest: str) -> Model:
    """Runs in a Ray task: probes on the train rows, scores of the fusion rows, late fusion, predictor."""
    labels = training_labels(Catalog(workspace=workspace))
    data = FeatureRows(workspace, encoders, labels)
    scorer = _scorer(encoders, head, data, classes=len(labels.categories))
    parts = [(scorer.scores(features), codes) for features, codes in data.read("fusion")]
    late = LateFusion.fit(
        np.concatenate([scores for scores, _ in parts]),
        np.concatenate([codes for _, codes in parts]),
        models=scorer.models,
        classes=len(labels.categories),
        seed=workspace.settings.seed,
        threads=1,
    )
    predictor = Predictor(scorer=scorer, late_fusion=late, categories=labels.paths)
    card = {
        "encoders": [model.id for model in encoders],
        "head": head.id if head else None,
        "models": scorer.models,
        "late_fusion": asdict(late.report),
        "preset": workspace.settings.preset,
    }
    return _store(predictor, workspace, kind="predictor", name=PREDICTOR, recipe=digest, card=card)


def _scorer(encoders: Sequence[Model], head: Model | None, data: "FeatureRows", *, classes: int) -> Scorer:
    """Linear probes fitted on the train rows, and the head."""
    ordered = sorted(encoders, key=lambda model: model.name)
    return Scorer(
        encoders=tuple(
            EncoderPart(id=model.id, modality=model.card["modality"], width=model.card["width"]) for model in ordered
        ),
        classifiers={
            model.name: fit_probe(partial(data.vectors, model.name), width=model.card["width"], classes=classes)
            for model in ordered
        },
        head=load_head(fetch_model(head)) if head else None,
    )


class FeatureRows:
    """Stored features of the labelled products of known classes that have at least one vector, bucket by bucket."""

    def __init__(self, workspace: Workspace, encoders: Sequence[Model], labels: Labels) -> None:
        self.seed = workspace.settings.seed
        self.stores = {model.name: store_of(workspace, model) for model in encoders}
        self.rows = labels.rows[labels.rows["code"] >= 0]

    def read(self, split: Split) -> Iterator[tuple[Features, np.ndarray]]:
        """Features and class codes int64 `[N]` of one split, a bucket at a time."""
        for bucket, rows in by_bucket(self.rows, split):
            yield self._read_bucket(bucket, rows)

    def vectors(self, encoder: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Vectors and class codes of the train rows that one encoder has a vector of, a bucket at a time."""
        for features, codes in self.read("train"):
            vectors, present = features[encoder]
            yield vectors[present], codes[present]

    def train_batches(self, batch: int, epoch: int) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]]:
        """Shuffled minibatches of the train rows: vectors, presence, class codes."""
        rng = np.random.default_rng([self.seed, epoch])
        buckets = by_bucket(self.rows, "train")
        for index in rng.permutation(len(buckets)):
            bucket, rows = buckets[index]
            features, codes = self._read_bucket(bucket, rows)
            order = rng.permutation(len(codes))
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                part = {name: (vectors[chosen], present[chosen]) for name, (vectors, present) in features.items()}
                yield *_tensors(part), torch.from_numpy(codes[chosen])

    def _read_bucket(self, bucket: int, rows: pd.DataFrame) -> tuple[Features, np.ndarray]:
        features = {
            name: store.read(pa.array(rows[HASH_COLUMNS[store.modality]], pa.string()), buckets=[bucket])
            for name, store in self.stores.items()
        }
        usable = np.any([present for _, present in features.values()], axis=0)
        kept = {name: (vectors[usable], present[usable]) for name, (vectors, present) in features.items()}
        return kept, rows["code"].to_numpy()[usable]


def _tensors(features: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return (
        {name: torch.from_numpy(vectors.astype(np.float32)) for name, (vectors, _) in features.items()},
        {name: torch.from_numpy(present) for name, (_, present) in features.items()},
    )

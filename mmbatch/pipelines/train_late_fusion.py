"""Training of the late fusion: probes on the train rows, scores of the fusion rows -> predictor.

No encoder runs here.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.feature_store import require_features
from mmbatch.fusion.head import load_head
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.probe import INVERSE_STRENGTH, fit_probe
from mmbatch.joined import joined_store
from mmbatch.models import Model, digest_of, fetch_model, find_model, publish_model, reads_sequences
from mmbatch.pipelines.cluster import run_task, start_ray
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.train_head import identity_of
from mmbatch.predictor import EncoderPart, Predictor, Scorer
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.workspace import Workspace

PREDICTOR = "predictor"


def train_late_fusion(workspace: Workspace, encoders: Sequence[Model], head: Model | None) -> Model:
    """Fit the late fusion on the fusion rows' scores and store the predictor, unless the workspace holds it already.

    Raises:
        InputError: an encoder's features are not stored, or the head reads sequences and none of its joined embeddings
            is.
    """
    labels = training_labels(Catalog(workspace=workspace))
    made_from = [workspace.settings.seed, identity_of(encoders, labels), head.id if head else None, INVERSE_STRENGTH]
    digest = digest_of(made_from)
    if found := find_model(workspace, kind="predictor", name=PREDICTOR, recipe=digest):
        say(f"late       found {found.id}")
        return found
    require_features(workspace, [model.id for model in encoders])
    joined = head if head and reads_sequences(head) else None
    if joined and not (table := joined_store(workspace, joined).table).rows():
        raise InputError(f"{table.uri}: found no joined embeddings, expected some: run jobs.extract_features first")
    run = Run(workspace=workspace, job="train_late_fusion")
    start_ray()
    rows = FeatureRows(workspace, tuple(encoders), labels.categories, rows_per_bucket(labels), joined=joined)
    model: Model = run_task(_train, rows, Levels.of(labels.taxonomy, _level_weights(head)), head, digest)
    run.finish({"model": model.id, **model.card["late_fusion"]})
    say(f"late       stored {model.id}: {model.card['late_fusion']['rounds']} boosting rounds over the weighting")
    return model


def _level_weights(head: Model | None) -> Sequence[float]:
    return head.card["training"]["level_weights"] if head else ()


def _train(rows: FeatureRows, levels: Levels, head: Model | None, digest: str) -> Model:
    """Runs in a Ray task."""
    scorer = _scorer(rows, levels, head)
    parts = [(scorer.scores(features), codes) for features, codes in rows.read("fusion")]
    late = LateFusion.fit(
        np.concatenate([scores for scores, _ in parts]),
        np.concatenate([codes for _, codes in parts]),
        models=scorer.models,
        classes=len(rows.categories),
        seed=rows.workspace.settings.seed,
        threads=1,
    )
    card = {
        "encoders": [model.id for model in rows.encoders],
        "head": head.id if head else None,
        "models": scorer.models,
        "late_fusion": asdict(late.report),
        "preset": rows.workspace.settings.preset,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        Predictor(scorer=scorer, late_fusion=late).save(folder)
        files = sorted(path.name for path in folder.iterdir())
        return publish_model(
            rows.workspace, kind="predictor", name=PREDICTOR, folder=folder, identity=files, recipe=digest, card=card
        )


def _scorer(rows: FeatureRows, levels: Levels, head: Model | None) -> Scorer:
    """Linear probes fitted on the train rows, and the head."""
    ordered = sorted(rows.encoders, key=lambda model: model.name)
    return Scorer(
        encoders=tuple(
            EncoderPart(id=model.id, modality=model.card["modality"], width=model.card["width"]) for model in ordered
        ),
        classifiers={
            model.name: fit_probe(
                partial(rows.vectors, model.name), width=model.card["width"], classes=len(rows.categories)
            )
            for model in ordered
        },
        head=load_head(fetch_model(head)) if head else None,
        levels=levels,
        joined=rows.joined.id if rows.joined else None,
    )

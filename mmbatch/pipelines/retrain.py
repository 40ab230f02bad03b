"""Retraining: a challenger trained on tonight's labels, and champion and challenger on the same golden rows.

The champion is the predictor that the published predictions were made by (`mmbatch.models.published_predictor`). A
challenger, its head and its encoders are stored as challengers, so that no job takes them for the newest before they
are published.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.feature_store import require_features
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.golden import Difference, difference
from mmbatch.models import Model, open_model, reads_sequences
from mmbatch.pipelines.extract import extract
from mmbatch.pipelines.extract_joined import extract_joined
from mmbatch.pipelines.finetune import Resources, finetune, subjects_of
from mmbatch.pipelines.measure import measure_products
from mmbatch.pipelines.train_head import train_head
from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion
from mmbatch.predictor import Features, Predictor, stored_categories
from mmbatch.progress import say
from mmbatch.schema import Split
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.training import EncoderRecipe, HeadRecipe, LateFusionRecipe
from mmbatch.workspace import Workspace

Retrained = Literal["head", "late-fusion", "encoder"]
"""What is trained again, with everything above it: the late fusion is above the head, the head above the encoders."""

GOLDEN: Split = "golden"


class Recipes(Protocol):
    """How a challenger is trained; what a preset says of it."""

    @property
    def encoders(self) -> Sequence[EncoderRecipe]:
        """How each encoder is fine-tuned."""

    @property
    def head(self) -> HeadRecipe:
        """How fusion heads are trained."""

    @property
    def late_fusion(self) -> LateFusionRecipe:
        """How the late fusion boosts."""

    @property
    def precision(self) -> float:
        """Share of right ones that accepted predictions are to reach."""


class GoldenPredictions(NamedTuple):
    """The golden rows that a predictor can predict, by bucket and id: N products."""

    product_ids: np.ndarray
    """object `[N]`."""
    gold: np.ndarray
    """Names of their categories in the present tree, object `[N]`."""
    predicted: np.ndarray
    """Likewise; None where the product stays in review."""


def golden_predictions(workspace: Workspace, model: Model, history: TaxonomyHistory) -> GoldenPredictions:
    """Predict the golden rows from stored features, bucket by bucket; nothing is staged.

    A row of which no vector is stored, or whose category was removed from the tree or split, is left out.

    Args:
        workspace: whose golden rows, and features of the predictor's encoders, are read.
        model: the stored predictor.
        history: of the tree whose names both have.

    Raises:
        InputError: the features of one of the predictor's encoders are not stored.
    """
    require_features(workspace, model.card["encoders"])
    rows = _golden_rows(Catalog(workspace=workspace), history)
    if rows.empty:
        return GoldenPredictions(*(np.empty(0, object) for _ in GoldenPredictions._fields))
    codes = measure_products(workspace, model, rows, best_decision, name="golden")[:, 0]
    predictable = ~np.isnan(codes)
    decisions = history.version_of(Taxonomy(stored_categories(model))).decisions
    names = np.array([shown(path) or None for path in decisions], object)
    kept = rows[predictable]
    return GoldenPredictions(
        kept["product_id"].to_numpy(object), kept["gold"].to_numpy(object), names[codes[predictable].astype(np.int64)]
    )


def best_decision(predictor: Predictor, features: Features) -> np.ndarray:
    """Index into `Predictor.categories` of the best decision of each product, float32 `[N, 1]`."""
    _, joined = predictor.predict(features)
    return np.asarray(joined.argmax(axis=1)[:, None], np.float32)


def _golden_rows(catalog: Catalog, history: TaxonomyHistory) -> pd.DataFrame:
    """Keys, hashes and `gold`, the present name of the category, of the golden rows that have one; by bucket."""
    parts = []
    for bucket in range(catalog.workspace.settings.buckets):
        labels = catalog.labels([bucket])
        parts.append(labels.filter(pc.equal(labels["split"], GOLDEN)))
    rows: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    rows["gold"] = rows["category"].map(history.current(rows["category"].unique()))
    return rows[rows["gold"].notna()]


def compare(workspace: Workspace, champion: Model, challenger: Model) -> Difference:
    """Champion (before) and challenger (after) on the golden rows that both can predict; the others are counted.

    `InputError` where the features of one of their encoders are not stored.
    """
    history = TaxonomyHistory.read(workspace)
    before, after = (
        pd.DataFrame(golden_predictions(workspace, model, history)._asdict()) for model in (champion, challenger)
    )
    both = before.merge(after, on=["product_ids", "gold"])
    found = difference(both["gold"], both["predicted_x"], both["predicted_y"], seed=workspace.settings.seed)
    found = replace(found, left_out=len(before) + len(after) - 2 * len(both))
    others = f"; {found.left_out:,} rows that one of them cannot predict are left out" if found.left_out else ""
    say(f"golden     {champion.id} and {challenger.id}: {found.describe()}{others}")
    return found


def train_challenger(
    workspace: Workspace, what: Retrained, *, champion: Model, preset: Recipes, weights: str | None = None
) -> Model:
    """Train on tonight's labels, and store the predictor as a challenger; each stage finds for itself what is done.

    Where labels and recipes are those that the champion was trained on, the champion itself is what comes back, and
    nothing is trained. A new encoder's features are computed of the labelled products only.

    Args:
        workspace: whose labels are learned; the features of the champion's encoders are up to date.
        what: what is trained again, with everything above it.
        champion: whose encoders, and head, are kept where they are not trained again.
        preset: the recipes.
        weights: folder of pretrained weights that is looked into first; for `encoder`.

    Raises:
        InputError: training cannot start or go on; for `late-fusion`, also where the train rows have other categories
            than the champion's head, or one of the champion's models is not stored any more.
    """
    workspace = replace(workspace, challenging=True)
    encoders = _encoders(workspace, what, champion, preset, weights)
    head = _head(workspace, what, champion, preset, encoders)
    goal = Goal(precision=preset.precision)
    model = train_late_fusion(workspace, encoders, head, recipe=preset.late_fusion, goal=goal)
    if model.id == champion.id:
        say(f"retrain    nothing new to learn from: trained again, {what} gives the champion, {champion.id}")
    else:
        say(f"retrain    {model.id} challenges {champion.id}")
    return model


def _encoders(
    workspace: Workspace, what: Retrained, champion: Model, preset: Recipes, weights: str | None
) -> list[Model]:
    """The champion's, or new ones with the features of the labelled products."""
    if what != "encoder":
        return [open_model(workspace, kind="encoder", model_id=model_id) for model_id in champion.card["encoders"]]
    subjects = subjects_of(workspace, preset.encoders, weights=weights)
    trained = [
        finetune(subject, recipe.training, Resources())
        for subject, recipe in zip(subjects, preset.encoders, strict=True)
    ]
    encoders = [model for model in trained if model]
    if not encoders:
        raise InputError(f"--workspace {workspace.uri}: no labelled product has what the encoders read")
    extract(workspace, encoders, labelled_only=True)
    return encoders


def _head(
    workspace: Workspace, what: Retrained, champion: Model, preset: Recipes, encoders: Sequence[Model]
) -> Model | None:
    """The champion's, or a new one, with the joined embeddings of the labelled products where it reads sequences."""
    if what == "late-fusion":
        kept = champion.card["head"]
        return open_model(workspace, kind="head", model_id=kept) if kept else None
    head = train_head(workspace, encoders, recipe=preset.head)
    if head and reads_sequences(head):
        extract_joined(workspace, head, labelled_only=True)
    return head

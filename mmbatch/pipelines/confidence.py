"""What confidences and decisions of published predictions are worth, on test products."""

import numpy as np
import pandas as pd

from mmbatch.confidence_metrics import reliability, risk_coverage
from mmbatch.fusion.abstaining import KINDS
from mmbatch.models import Model
from mmbatch.pipelines.labelled import PUBLISHED
from mmbatch.pipelines.measure import measure_products
from mmbatch.pipelines.stress import draw
from mmbatch.predictor import Features, Predictor
from mmbatch.reports.confidence import Confidence, DecisionRow
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.workspace import Workspace

LIMIT = 20_000
"""Test products that are looked at: the standard error of a share of them is at most 0.4 points."""


def confidence_of(workspace: Workspace, predictor: Model, rows: pd.DataFrame) -> Confidence:
    """Of `labelled_predictions` with a gold category, at least one of them a test product with a prediction."""
    test = rows[(rows["split"] == "test") & rows["decision"].notna()]
    sample = draw(test, seed=workspace.settings.seed, limit=LIMIT)
    right = (sample[PUBLISHED] == sample["gold"]).to_numpy()
    raw = measure_products(workspace, predictor, sample, raw_confidence, name="confidence")[:, 0]
    published = np.clip(sample["confidence"].to_numpy(np.float64), 0, 1)
    known = ~np.isnan(raw)
    return Confidence(
        before=reliability(np.clip(raw[known], 0, 1), right[known]),
        after=reliability(published[known], right[known]),
        curve=risk_coverage(published, right),
        target=predictor.card["precision"],
        thresholds=predictor.card["decisions"],
        decisions=tuple(_decision(kind, sample) for kind in KINDS),
    )


def raw_confidence(predictor: Predictor, features: Features) -> np.ndarray:
    """Probability of late fusion's best category path without the temperature, float32 `[N, 1]`."""
    joined = predictor.late_fusion.predict(predictor.scorer.scores(features))
    return np.asarray(joined.max(axis=1, keepdims=True))


def _decision(kind: str, sample: pd.DataFrame) -> DecisionRow:
    mine = sample[sample["decision"] == kind]
    decided = mine["decided_category"].notna()
    right = [
        gold == said or gold.startswith(said + PATH_SEPARATOR)
        for gold, said in zip(mine["gold"][decided], mine["decided_category"][decided], strict=True)
    ]
    return DecisionRow(
        decision=kind,
        products=len(mine),
        share=len(mine) / len(sample),
        precision=float(np.mean(right)) if right else None,
    )

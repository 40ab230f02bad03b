"""A predictor whose late fusion, temperatures and thresholds are fitted on scores that a test has at hand."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from mmbatch.fusion.abstaining import Abstaining
from mmbatch.fusion.calibration import Calibration
from mmbatch.fusion.late import LateFusion
from mmbatch.predictor import Predictor, Scorer
from mmbatch.training import LateFusionRecipe


def predictor_of(
    scorer: Scorer, features: Mapping[str, tuple[np.ndarray, np.ndarray]], codes: np.ndarray, *, target: float = 0.5
) -> Predictor:
    """Everything above the scorer, fitted on the same few products."""
    scores, taxonomy = scorer.scores(features), scorer.levels.taxonomy
    classes = len(taxonomy.paths)
    late = LateFusion.fit(
        scores, codes, models=scorer.models, classes=classes, recipe=LateFusionRecipe(), seed=0, threads=1
    )
    joined = late.predict(scores)
    logs = {name: np.log(scores[:, model]) for model, name in enumerate(scorer.models)}
    return Predictor(
        scorer=scorer,
        late_fusion=late,
        calibration=Calibration.fit(np.log(joined), logs, codes),
        abstaining=Abstaining.fit(joined, codes, taxonomy, target=target),
    )


def card_of(predictor: Predictor) -> dict[str, Any]:
    """What a stored predictor says of itself, as far as readers look at it."""
    return {
        "encoders": [part.id for part in predictor.scorer.encoders],
        "head": None,
        "models": predictor.scorer.models,
        "late_fusion": asdict(predictor.late_fusion.report),
        "calibration": asdict(predictor.calibration),
        "precision": predictor.abstaining.target,
        "decisions": predictor.abstaining.describe(),
    }

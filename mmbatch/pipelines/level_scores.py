"""How right predictions are on each level of the categories, and how much of a wrong path is right."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.metrics import KAKAO_WEIGHTS, Labels, hierarchical_scores, kakao_score, level_accuracies
from mmbatch.pipelines.rows import path_of
from mmbatch.reports.evaluation import LevelRow


def level_rows(classes: Sequence[str], codes: Mapping[str, Labels], *, gold: Labels) -> tuple[LevelRow, ...]:
    """A row per model; none where no category has a second level.

    Args:
        classes: category paths as strings, those of the labels and of the predictions together.
        codes: model -> index into `classes` of what it says of each product, `[N]`; -1: nothing.
        gold: index into `classes` of each product's category, `[N]`.
    """
    taxonomy = Taxonomy(tuple(map(path_of, classes)))
    if len(taxonomy.levels) < 2:
        return ()
    nodes = np.vstack([taxonomy.codes([path_of(category) for category in classes]), np.full(len(taxonomy.levels), -1)])
    return tuple(_row(model, gold=nodes[gold], predicted=nodes[said]) for model, said in codes.items())


def _row(model: str, *, gold: Labels, predicted: Labels) -> LevelRow:
    arena = gold.shape[1] == len(KAKAO_WEIGHTS)
    return LevelRow(
        model=model,
        rows=len(gold),
        accuracies=tuple(level_accuracies(gold, predicted).tolist()),
        hierarchical_f1=hierarchical_scores(gold, predicted).f1,
        kakao=kakao_score(gold, predicted) if arena else None,
    )

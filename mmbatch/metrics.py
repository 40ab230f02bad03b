"""Figures of merit of predicted categories: pure functions of label vectors.

Shapes: N products, C classes. A gold label is a class number, 0 to C - 1. A predicted label is a class number, or
`UNSCORED` where the model could say nothing about the product (its modality is missing, say). An unscored product
counts as wrong: a miss of its gold class and a false alarm of none, so a model gains nothing by staying silent.

Per class c, with tp, fp and fn the counts of true positives, false positives and false negatives:

    precision_c = tp / (tp + fp)    recall_c = tp / (tp + fn)    F1_c = 2 tp / (2 tp + fp + fn)

Category paths are rows of L codes, one per level of the tree, root first, and -1 where the product has no such level.
A code stands for a node with all its ancestors, not for a name, as `Taxonomy.codes` makes it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

UNSCORED = -1
"""Predicted label of a product that the model could not score."""

KAKAO_WEIGHTS = (1.0, 1.2, 1.3, 1.4)
"""Of the four levels, main to sub: the Kakao arena's `evaluate.py`."""

Labels = npt.NDArray[np.integer]


class F1(NamedTuple):
    """F1 of one model on `rows` products, each figure in 0..1."""

    macro: float
    micro: float
    weighted: float
    rows: int


class ClassScores(NamedTuple):
    """Figures of one model per class, as columns of length C; NaN where a figure's denominator is 0."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    support: npt.NDArray[np.int64]
    """Products whose gold label is this class."""


def f1_scores(gold: Labels, predicted: Labels) -> F1:
    """Macro, micro and weighted F1 of `predicted` [N] against `gold` [N].

        macro = mean of F1_c over the classes that occur in gold or in predicted
        micro = products predicted right / N
        weighted = sum over c of (products of gold class c / N) * F1_c

    The classes of the macro mean are those of `sklearn.metrics.f1_score`: a class that is predicted but has no product
    counts with F1 = 0, a class that occurs in neither vector is left out. With one label per product, micro-F1 is
    accuracy; unscored products stay in its denominator.

    Raises:
        ValueError: the vectors are empty, differ in shape, or hold a label that is not allowed.
    """
    check_labels(gold=gold, predicted=predicted)
    occurring = np.union1d(gold, predicted[predicted != UNSCORED])
    macro, weighted = (
        float(f1_score(gold, predicted, labels=occurring, average=average, zero_division=0))
        for average in ("macro", "weighted")
    )
    return F1(macro=macro, micro=float(accuracy_score(gold, predicted)), weighted=weighted, rows=len(gold))


def per_class(gold: Labels, predicted: Labels, classes: int) -> ClassScores:
    """Precision, recall, F1 (module docstring) and support of each of the `classes` classes.

    NaN means that there is nothing to divide by: precision of a class never predicted, recall of a class without
    products, F1 of a class that is both. So the mean of the F1 that are not NaN is macro-F1 as in `f1_scores`.

    Raises:
        ValueError: the vectors are empty, differ in shape, or hold a label that is not allowed.
    """
    check_labels(gold=gold, predicted=predicted, classes=classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        gold, predicted, labels=np.arange(classes), zero_division=np.nan
    )
    return ClassScores(precision=precision, recall=recall, f1=f1, support=support.astype(np.int64))


def confusion(gold: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Confusion matrix [C, C]: entry (g, p) counts the products of gold class g that were predicted as class p.

    Unscored products have no column: a row's sum falls short of the class's support by their number.

    Raises:
        ValueError: the vectors are empty, differ in shape, or hold a label that is not allowed.
    """
    check_labels(gold=gold, predicted=predicted, classes=classes)
    scored = predicted != UNSCORED
    cells = gold[scored].astype(np.int64) * classes + predicted[scored]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


class HierarchicalScores(NamedTuple):
    """Hierarchical precision, recall and F1 of one model, each in 0..1; NaN where a denominator is 0."""

    precision: float
    recall: float
    f1: float


def level_accuracies(gold: Labels, predicted: Labels) -> npt.NDArray[np.float64]:
    """Share of right codes on each level, `[L]`, of `predicted` [N, L] against `gold` [N, L].

    Only the products that have the level in gold count on it, whatever is predicted for the others; NaN where none has.

    Raises:
        ValueError: the shapes differ, there is no product, or a code is not allowed.
    """
    _check_paths(gold=gold, predicted=predicted)
    present = gold >= 0
    right = ((predicted == gold) & present).sum(axis=0)
    counts = present.sum(axis=0)
    shares: npt.NDArray[np.float64] = np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return shares


def kakao_score(gold: Labels, predicted: Labels) -> float:
    """Score of the Kakao arena's shopping task, 0 to 1.225, of `predicted` [N, 4] against `gold` [N, 4].

        (1.0 main + 1.2 middle + 1.3 small + 1.4 sub) / 4    with the `level_accuracies` of the four levels

    NaN where no product has one of the levels, as the arena's formula has no value then.

    Source: `evaluate.py` of kakao-arena/shopping-classification.

    Raises:
        ValueError: there are not four levels, or as in `level_accuracies`.
    """
    if gold.shape[1:] != (len(KAKAO_WEIGHTS),):
        raise ValueError(f"gold {gold.shape}: expected {len(KAKAO_WEIGHTS)} levels")
    return float(level_accuracies(gold, predicted) @ np.array(KAKAO_WEIGHTS) / len(KAKAO_WEIGHTS))


def hierarchical_scores(gold: Labels, predicted: Labels) -> HierarchicalScores:
    """Hierarchical precision, recall and F1 of `predicted` [N, L] against `gold` [N, L], micro-averaged.

    With T_n and P_n the sets of the gold and the predicted node of product n and all their ancestors but the root:

        precision = sum of |P_n & T_n| / sum of |P_n|    recall = sum of |P_n & T_n| / sum of |T_n|
        F1 = 2 precision recall / (precision + recall) = 2 sum of |P_n & T_n| / (sum of |P_n| + sum of |T_n|)

    So a mistake near the root costs more than one near a leaf, and the right parent of a wrong leaf earns something.

    Source: Kiritchenko, Matwin, Nock and Famili, "Learning and Evaluation in the Presence of Class Hierarchies:
    Application to Text Categorization", Canadian AI 2006.

    Raises:
        ValueError: the shapes differ, there is no product, or a code is not allowed.
    """
    _check_paths(gold=gold, predicted=predicted)
    shared = int(((predicted == gold) & (gold >= 0)).sum())
    truth, said = int((gold >= 0).sum()), int((predicted >= 0).sum())
    precision = shared / said if said else np.nan
    return HierarchicalScores(precision=precision, recall=shared / truth, f1=2 * shared / (said + truth))


def _check_paths(*, gold: Labels, predicted: Labels) -> None:
    if gold.ndim != 2 or gold.shape != predicted.shape or not gold.size:
        raise ValueError(f"gold {gold.shape} and predicted {predicted.shape}: expected two equal [N, L] above 0")
    if gold[:, 0].min() < 0:
        count = (gold[:, 0] < 0).sum()
        raise ValueError(f"{count} of {len(gold)} gold paths have no first level: leave out what is not labelled")
    lowest = min(gold.min(), predicted.min())
    if lowest < -1:
        raise ValueError(f"code {lowest}: expected a node's code, or -1 for no such level")


def check_labels(*, gold: Labels, predicted: Labels, classes: int | None = None) -> None:
    """Raise `ValueError` unless `predicted` [N] can be scored against `gold` [N], N above 0, of `classes` classes."""
    if gold.ndim != 1 or gold.shape != predicted.shape or not gold.size:
        raise ValueError(f"gold {gold.shape} and predicted {predicted.shape}: expected two equal lengths above 0")
    if gold.min() < 0:
        raise ValueError(f"{(gold < 0).sum()} of {gold.size} gold labels are below 0: leave out what is not labelled")
    if predicted.min() < UNSCORED:
        raise ValueError(f"predicted label {predicted.min()}: expected a class number, or {UNSCORED} for not scored")
    highest = int(max(gold.max(), predicted.max()))
    if classes is not None and highest >= classes:
        raise ValueError(f"label {highest} with {classes} classes: expected labels below {classes}")

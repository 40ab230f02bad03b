"""Figures of merit of predicted categories: pure functions of label vectors.

Shapes: N products, C classes. A gold label is a class number, 0 to C - 1. A predicted label is a class number, or
`UNSCORED` where the model could say nothing about the product (its modality is missing, say). An unscored product
counts as wrong: a miss of its gold class and a false alarm of none, so a model gains nothing by staying silent.

Per class c, with tp, fp and fn the counts of true positives, false positives and false negatives:

    precision_c = tp / (tp + fp)    recall_c = tp / (tp + fn)    F1_c = 2 tp / (2 tp + fp + fn)
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

UNSCORED = -1
"""Predicted label of a product that the model could not score."""

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
    _check(gold=gold, predicted=predicted)
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
    _check(gold=gold, predicted=predicted, classes=classes)
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
    _check(gold=gold, predicted=predicted, classes=classes)
    scored = predicted != UNSCORED
    cells = gold[scored].astype(np.int64) * classes + predicted[scored]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def _check(*, gold: Labels, predicted: Labels, classes: int | None = None) -> None:
    if gold.ndim != 1 or gold.shape != predicted.shape or not gold.size:
        raise ValueError(f"gold {gold.shape} and predicted {predicted.shape}: expected two equal lengths above 0")
    if gold.min() < 0:
        raise ValueError(f"{(gold < 0).sum()} of {gold.size} gold labels are below 0: leave out what is not labelled")
    if predicted.min() < UNSCORED:
        raise ValueError(f"predicted label {predicted.min()}: expected a class number, or {UNSCORED} for not scored")
    highest = int(max(gold.max(), predicted.max()))
    if classes is not None and highest >= classes:
        raise ValueError(f"label {highest} with {classes} classes: expected labels below {classes}")

"""Suspected wrong labels, by confident learning on out-of-fold probabilities.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, as
cleanlab implements it for data that does not fit in memory. Shape letters: N products, C categories, S suspects.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from cleanlab.experimental.label_issues_batched import LabelInspector

from mmbatch.errors import InputError

SUM_TOLERANCE = 1e-3
"""How far probabilities of one product may sum from 1: those of 10,000 categories in float32 are off by less."""

Batches = Callable[[], Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]]
"""Starts a pass over the rows: probabilities `[N, C]` by models that have not seen these rows, and the codes of their
given categories `[N]`, a part at a time, always the same."""


class Suspects(NamedTuple):
    """Products whose given label is probably wrong, the worst first."""

    rows: npt.NDArray[np.int64]
    """Number of each among all rows, in the order in which they came, from 0, `[S]`."""
    quality: npt.NDArray[np.float32]
    """Normalised margin, 0..1, `[S]`: (probability of the given category - that of the best other one + 1) / 2."""
    suggested: npt.NDArray[np.int64]
    """Code of the category that the models would give, `[S]`."""


def find_suspects(batches: Batches, *, classes: int) -> Suspects:
    """The labels that the models contradict, in two passes; what is held is a few numbers of each contradicted row.

    A category's threshold is the mean probability that its own products get for it; a row counts as confident where its
    most probable category reaches that one's threshold. Of each given category, the share of wrong labels is the share
    of its confident rows whose most probable category is another one: the paper's calibrated confident joint. The
    suspects are as many rows as that makes, those of lowest quality, where the models prefer another category.

    Raises:
        InputError: there are no rows or fewer than two categories, or a part is not as `Batches` says.
    """
    if classes < 2:
        raise InputError(f"label noise: found {classes} categories, expected at least 2")
    inspector = LabelInspector(
        num_class=classes,
        store_results=False,
        verbose=False,
        quality_score_kwargs={"method": "normalized_margin"},
        num_issue_kwargs={"estimation_method": "off_diagonal_calibrated"},
    )
    for probabilities_NC, codes_N in _checked(batches, classes):
        inspector.update_confident_thresholds(codes_N, probabilities_NC)
    if not inspector.examples_processed_thresh:
        raise InputError("label noise: found no labelled products, expected at least 1")
    parts, start = [], 0
    for probabilities_NC, codes_N in _checked(batches, classes):
        quality_N = inspector.score_label_quality(codes_N, probabilities_NC)
        best_N = probabilities_NC.argmax(axis=1)
        (other,) = np.nonzero(best_N != codes_N)
        parts.append(Suspects(start + other, quality_N[other].astype(np.float32), best_N[other]))
        start += len(codes_N)
    rows, quality, suggested = (np.concatenate(column) for column in zip(*parts, strict=True))
    worst = np.argsort(quality, kind="stable")[: inspector.get_num_issues()]
    return Suspects(rows[worst], quality[worst], suggested[worst])


def _checked(batches: Batches, classes: int) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """One pass over the parts that have rows."""
    for probabilities_NC, codes_N in batches():
        _check(probabilities_NC, codes_N, classes)
        if len(codes_N):
            yield probabilities_NC, codes_N


def _check(probabilities_NC: npt.NDArray[np.float32], codes_N: npt.NDArray[np.int64], classes: int) -> None:
    if probabilities_NC.shape != (len(codes_N), classes):
        raise InputError(
            f"label noise: probabilities are {probabilities_NC.shape}, expected {(len(codes_N), classes)}: "
            f"{len(codes_N)} products x {classes} categories"
        )
    if not len(codes_N):
        return
    if not np.isfinite(probabilities_NC).all() or probabilities_NC.min() < 0:
        raise InputError("label noise: found probabilities that are negative, infinite or NaN, expected all in 0..1")
    sums_N = probabilities_NC.sum(axis=1, dtype=np.float64)
    farthest = sums_N[np.abs(sums_N - 1).argmax()]
    if abs(farthest - 1) > SUM_TOLERANCE:
        raise InputError(f"label noise: found probabilities of a product that sum to {farthest:.4f}, expected 1")
    if codes_N.min() < 0 or codes_N.max() >= classes:
        raise InputError(
            f"label noise: found category codes {codes_N.min()} to {codes_N.max()}, expected 0 to {classes - 1}"
        )

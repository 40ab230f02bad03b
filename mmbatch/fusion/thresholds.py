"""Thresholds of confidence above which predictions reach a target precision, with a bound for chance.

Shapes: N products.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betainc
from scipy.stats import beta

from mmbatch.errors import InputError

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]

MISTAKES = (0, 8)
"""That the first threshold of each search may hold, as far as there are rows. With none allowed, one wrong label among
the surest rows ends the search; with many, it begins where less sure rows are accepted too."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Predictions at or above a confidence are accepted, and how that went on the rows that it was fitted on."""

    confidence: float | None
    """Accept at or above; None: never, as nothing reaches the target."""
    rows: int
    accepted: int
    """Of the rows; 0 where never."""
    right: int
    """Of the accepted ones."""
    bound: float
    """Lower bound of the precision (`lower_bounds`); 0 where never."""

    @property
    def coverage(self) -> float:
        """Share of the rows that is accepted, 0..1; 0 without rows."""
        return self.accepted / self.rows if self.rows else 0.0

    @property
    def precision(self) -> float:
        """Share of the accepted rows that is right, 0..1; NaN where there is none."""
        return self.right / self.accepted if self.accepted else np.nan


class Best(NamedTuple):
    """The threshold with the highest bound of precision, whatever the target."""

    bound: float
    """0..1; 0 without rows."""
    coverage: float
    """Share of the rows at or above that threshold."""


def lower_bounds(right: Counts, accepted: Counts, *, level: float) -> npt.NDArray[np.float64]:
    """One-sided lower bound of the precision at confidence `level`, of counts int; 0 where nothing is right.

    The 1 - level quantile of Beta(right, accepted - right + 1): the precision at which so many right ones or more have
    a probability of 1 - level. Source: Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in
    the Case of the Binomial", Biometrika 1934.
    """
    quantiles = beta.ppf(1 - level, np.maximum(right, 1), accepted - right + 1)
    return np.where(right > 0, quantiles, 0.0)


def fit_threshold(confidence_N: Floats, right_N: Truths, *, target: float, level: float = 0.95) -> Threshold:
    """The lowest threshold at which the lower bound of the precision reaches the target, by fixed-sequence testing.

    Candidates are the confidences that occur, from the highest down, equal ones together. A search, or two, begins at
    the first with as many rows at or above it as `first_rows` says, which depends on nothing that was observed but the
    number of rows. Each goes on down to the first candidate whose bound is below the target, and ends at the last one
    before it; the lowest end is the threshold. So that all S searches together keep to `level`, the bounds of each are
    at 1 - (1 - level) / S.

    Why the search does not spoil the bound: let t be the confidence such that thresholds below t have a precision below
    the target, and others reach it (there is such a t where less confident products are less often right). A mistake is
    to choose a threshold below t. As the order of tests is fixed and the first failure ends them, that takes passing
    the first test of a threshold below t. The rows it counts are drawn from the products above t (or above a still
    lower threshold, where the tests only begin there), so the number of right ones is binomial with a precision of at
    most the target, and it passes with a probability of at most 1 - level. The tests after it need no correction,
    however many there are. So in at least `level` of all draws of calibration rows, the precision on new products of
    the same kind reaches the target. Taking the lowest of all thresholds whose bound reaches it fails more often.

    Source: Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve
    Risk Control", 2021: its fixed-sequence testing, with binomial tail probabilities as p-values.

    Args:
        confidence_N: of the predicted category, float `[N]`, finite.
        right_N: whether it is the gold category, bool `[N]`.
        target: precision to reach, between 0 and 1.
        level: confidence of the bound, between 0 and 1.

    Raises:
        InputError: the vectors or the numbers are not as above.
    """
    check_numbers(target=target, level=level)
    confidence, accepted, right = _candidates(confidence_N, right_N)
    starts = first_rows(len(confidence_N), target=target, level=level)
    strict = _shared(level, len(starts))
    failed = np.flatnonzero(~_passes(right, accepted, target=target, level=strict))
    firsts = np.searchsorted(accepted, starts)
    ends = np.append(failed, len(accepted))[np.searchsorted(failed, firsts)]
    if not (ends > firsts).any():
        return Threshold(confidence=None, rows=len(confidence_N), accepted=0, right=0, bound=0.0)
    last = int(ends[ends > firsts].max()) - 1
    return Threshold(
        confidence=float(confidence[last]),
        rows=len(confidence_N),
        accepted=int(accepted[last]),
        right=int(right[last]),
        bound=float(lower_bounds(right[last], accepted[last], level=level)),
    )


def best_bound(confidence_N: Floats, right_N: Truths, *, level: float = 0.95) -> Best:
    """The highest lower bound of precision that any threshold has, and its coverage: to tell how far off a target is.

    The best of many bounds is no bound itself, so it may even pass a target that `fit_threshold` does not reach.

    Raises:
        InputError: as in `fit_threshold`.
    """
    check_numbers(level=level)
    _, accepted, right = _candidates(confidence_N, right_N)
    if not len(accepted):
        return Best(bound=0.0, coverage=0.0)
    bounds = lower_bounds(right, accepted, level=level)
    best = int(bounds.argmax())
    return Best(bound=float(bounds[best]), coverage=float(accepted[best] / len(confidence_N)))


def first_rows(rows: int, *, target: float, level: float) -> list[int]:
    """The fewest of `rows` rows with which each of as many searches as there can be passes: one for each of `MISTAKES`.

    None where all the rows without a mistake would not do: at 98 % with 95 % confidence, 148 do not and 149 do.
    """
    for searches in range(len(MISTAKES), 0, -1):
        strict = _shared(level, searches)
        found = [fewest_rows(rows, mistakes, target=target, level=strict) for mistakes in MISTAKES[:searches]]
        if found[-1] is not None:
            return [count for count in found if count is not None]
    return []


def fewest_rows(rows: int, mistakes: int, *, target: float, level: float) -> int | None:
    """The fewest rows whose bound reaches the target with so many mistakes among them; None where above `rows`."""

    def enough(accepted: int) -> bool:
        right = np.array([max(accepted - mistakes, 0)])
        return bool(_passes(right, np.array([accepted]), target=target, level=level)[0])

    found = bisect_left(range(rows + 1), True, key=enough)
    return found if found <= rows else None


def check_numbers(**shares: float) -> None:
    """`InputError` that names the first of the numbers that is not between 0 and 1."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise InputError(f"{name}: found {value}, expected a number between 0 and 1")


def _shared(level: float, searches: int) -> float:
    """Confidence of each search's bounds, so that all together have `level` (Bonferroni)."""
    return 1 - (1 - level) / max(searches, 1)


def _passes(right: Counts, accepted: Counts, *, target: float, level: float) -> Truths:
    """Whether the lower bound is at or above the target: P(right or more | accepted, target) is 1 - level at most.

    The same as comparing `lower_bounds`, without its inversion of the incomplete beta function.
    """
    tail = betainc(np.maximum(right, 1), accepted - right + 1, target)
    passes: Truths = (right > 0) & (tail <= 1 - level)
    return passes


def _candidates(confidence_N: Floats, right_N: Truths) -> tuple[npt.NDArray[np.float64], Counts, Counts]:
    """Distinct confidences, highest first, with the rows at or above each of them and how many of those are right."""
    if confidence_N.ndim != 1 or confidence_N.shape != right_N.shape or right_N.dtype != np.bool_:
        found = f"confidences {list(confidence_N.shape)} with {right_N.dtype} {list(right_N.shape)}"
        raise InputError(f"threshold: found {found}, expected [N] with bool [N]")
    if not np.isfinite(confidence_N).all():
        raise InputError(f"threshold: found {(~np.isfinite(confidence_N)).sum()} confidences that are no number")
    order = np.argsort(-confidence_N, kind="stable")
    sorted_N, hits_N = confidence_N[order].astype(np.float64), right_N[order].cumsum(dtype=np.int64)
    ends = np.flatnonzero(np.append(np.diff(sorted_N) != 0, True)) if len(order) else np.empty(0, np.int64)
    return sorted_N[ends], ends + 1, hits_N[ends]

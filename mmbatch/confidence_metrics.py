"""Figures of merit of confidences: do they say how often a prediction is right, and do they set mistakes apart?

Shapes: N products, B bins, T distinct confidences. A confidence is a number from 0 to 1, the probability that the
predicted category is right; a product that no model scored has none and is left out by the caller.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BINS = 15
"""Of a reliability diagram and of the calibration error: as in Guo et al. 2017."""

Confidences = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]


class Reliability(NamedTuple):
    """Products by confidence, as columns of length B; NaN where a bin has no product."""

    lowest: Floats
    """Products of a bin are above this confidence; those with confidence 0 are in the first bin."""
    highest: Floats
    """They are at most at this confidence."""
    confidence: Floats
    """Mean confidence of the bin's products."""
    accuracy: Floats
    """Share of them that is right: equal to the mean confidence where confidences are calibrated."""
    products: npt.NDArray[np.int64]
    """Number of them."""


class RiskCoverage(NamedTuple):
    """What accepting all products at or above a threshold costs, as columns of length T, highest threshold first."""

    coverage: Floats
    """Share of the products that is accepted, rising, 1 at the end."""
    risk: Floats
    """Share of the accepted products that is wrong."""
    threshold: Floats


def reliability(confidence_N: Confidences, right_N: Truths, bins: int = BINS) -> Reliability:
    """Mean confidence and accuracy in `bins` bins of equal width, each open below and closed above.

    Args:
        confidence_N: of the predicted category, float `[N]`, 0 to 1.
        right_N: whether it is the gold category, bool `[N]`.
        bins: number of bins B, at least 1.

    Source: DeGroot and Fienberg 1983; Niculescu-Mizil and Caruana, "Predicting Good Probabilities with Supervised
    Learning", ICML 2005.

    Raises:
        ValueError: the vectors are empty or differ in shape, or a confidence is not from 0 to 1.
    """
    _check(confidence_N, right_N)
    if bins < 1:
        raise ValueError(f"{bins} bins: expected at least 1")
    edges = np.linspace(0, 1, bins + 1)
    bin_N = np.searchsorted(edges[1:-1], confidence_N, side="left")
    products = np.bincount(bin_N, minlength=bins).astype(np.int64)
    sums = (np.bincount(bin_N, weights=column, minlength=bins) for column in (confidence_N, right_N))
    confidence, accuracy = (np.divide(total, products, out=np.full(bins, np.nan), where=products > 0) for total in sums)
    return Reliability(edges[:-1], edges[1:], confidence, accuracy, products)


def calibration_error(confidence_N: Confidences, right_N: Truths, bins: int = BINS) -> float:
    """Expected calibration error, 0 to 1, over the bins of `reliability`:

        ECE = sum over bins b of (products in b / N) * |accuracy_b - mean confidence_b|

    Source: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015;
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Raises:
        ValueError: as in `reliability`.
    """
    return error_of(reliability(confidence_N, right_N, bins))


def error_of(found: Reliability) -> float:
    """The expected calibration error (`calibration_error`) of bins that are already counted."""
    gap_B = np.abs(found.accuracy - found.confidence)
    return float(np.nansum(gap_B * found.products) / found.products.sum())


def risk_coverage(confidence_N: Confidences, right_N: Truths) -> RiskCoverage:
    """Share of mistakes among the surest products, at each confidence that occurs; equal ones are accepted together.

    Args:
        confidence_N: of the predicted category, float `[N]`, 0 to 1.
        right_N: whether it is the gold category, bool `[N]`.

    Source: El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010; Geifman and
    El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017.

    Raises:
        ValueError: the vectors are empty or differ in shape, or a confidence is not from 0 to 1.
    """
    _check(confidence_N, right_N)
    threshold, group_N, count = np.unique(confidence_N, return_inverse=True, return_counts=True)
    wrong = np.bincount(group_N, weights=~right_N, minlength=len(threshold))
    accepted, mistakes = count[::-1].cumsum(), wrong[::-1].cumsum()
    return RiskCoverage(accepted / len(right_N), mistakes / accepted, threshold[::-1].astype(np.float64))


def _check(confidence_N: Confidences, right_N: Truths) -> None:
    if confidence_N.ndim != 1 or confidence_N.shape != right_N.shape or not confidence_N.size:
        shapes = f"confidences {confidence_N.shape} and rights {right_N.shape}"
        raise ValueError(f"{shapes}: expected two equal lengths above 0")
    if right_N.dtype != np.bool_:
        raise ValueError(f"rights of type {right_N.dtype}: expected bool")
    outside = ~((confidence_N >= 0) & (confidence_N <= 1))
    if outside.any():
        first = confidence_N[outside][0]
        raise ValueError(f"{outside.sum()} of {confidence_N.size} confidences as {first}: expected 0 to 1 each")

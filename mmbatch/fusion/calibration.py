"""Calibration: temperatures that make a distribution's confidence say how often it is right.

Shape letters: N products, C classes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from mmbatch.confidence_metrics import calibration_error
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import row_blocks

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

LOWEST = float(np.log(np.finfo(np.float32).tiny))
"""A log-probability counts as at least this: a float32 probability that has become 0 stays finite."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Temperatures of every model and of their joined distribution, fitted on calibration rows.

    `error_after` is on the rows that the temperature was fitted on. One parameter can fit little of their noise, but
    what the error is on products that nothing was fitted on, only test rows say.
    """

    temperatures: Mapping[str, float]
    """Model -> temperature of its own probabilities."""
    joined: float
    """Temperature of the late fusion's distribution."""
    rows: int
    """Calibration rows with a joined distribution."""
    error_before: float | None
    """Expected calibration error of the joined confidence as it was, 0 to 1; None without rows."""
    error_after: float | None
    """The same after division by the temperature."""
    classes_without_rows: int
    """Classes that no calibration row has as its label: for these, temperatures are taken from the others."""

    @classmethod
    def fit(cls, joined_NC: Floats, models: Mapping[str, Floats], labels_N: Ints) -> Self:
        """Fit on products that nothing else was fitted on.

        Args:
            joined_NC: log-probabilities of the late fusion, float `[N, C]`, NaN rows where nothing scored the product.
            models: the same of each model.
            labels_N: true class, int `[N]`.

        Raises:
            InputError: shapes or labels are not as above.
        """
        joined = fit_temperature(joined_NC, labels_N)
        scored_N = _scored(joined_NC)
        return cls(
            temperatures={name: fit_temperature(log_probs_NC, labels_N) for name, log_probs_NC in models.items()},
            joined=joined,
            rows=int(scored_N.sum()),
            error_before=_error(joined_NC, labels_N, 1.0),
            error_after=_error(joined_NC, labels_N, joined),
            classes_without_rows=joined_NC.shape[1] - len(np.unique(labels_N[scored_N])),
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The calibration that `to_json` wrote; `InputError` where the text is something else."""
        try:
            found = cls(**json.loads(text))
            temperatures = [found.joined, *found.temperatures.values()]
            valid = all(isinstance(value, int | float) and 0 < value < np.inf for value in temperatures)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"calibration: found something else than its JSON: {error}") from error
        if not valid:
            raise InputError(f"calibration: found temperatures {temperatures}, expected numbers above 0")
        return found

    def to_json(self) -> str:
        """JSON object of the fields."""
        return json.dumps(asdict(self), ensure_ascii=False)


def fit_temperature(log_probs_NC: Floats, labels_N: Ints) -> float:
    """Most probable temperature T of softmax(log-probabilities / T) given the labels; 1 where that is no better.

    It is kept where the mean log-loss is lower by more than the standard error of the difference: late fusion has a
    temperature of its own, and a second one, fitted on few rows, would rather add noise.

    The prior on log T is a standard normal, as in `fit_weighting`: a factor of e away from 1 costs half a nat, which
    decides with a handful of rows and vanishes with thousands. The objective is

        prior + sum over n of (logsumexp_c(z_nc / T) - z_n,label / T)    with prior = (log T)^2 / 2

    in nats, and its derivative in log T is log T + sum over n of (z_n,label - sum over c of p_nc z_nc) / T.
    Work is done on blocks of rows: a second copy of all scores never exists.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        log_probs_NC: log-probabilities, float `[N, C]`; a row that is NaN is left out.
        labels_N: true class, int `[N]`, in `range(C)`.

    Raises:
        InputError: shapes or labels are not as above.
    """
    _check(log_probs_NC, labels_N)
    rows = np.flatnonzero(_scored(log_probs_NC))

    def objective(parameter: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """Negative log-posterior in nats and its gradient; the parameter is log T."""
        log_t = float(parameter[0])
        loss, slope = log_t * log_t / 2, log_t
        for block in row_blocks(len(rows), log_probs_NC.shape[1]):
            more_loss, more_slope = _losses(log_probs_NC[rows[block]], labels_N[rows[block]], np.exp(-log_t))
            loss, slope = loss + more_loss, slope + more_slope
        return loss, np.array([slope])

    found = float(np.exp(minimize(objective, np.zeros(1), jac=True, method="L-BFGS-B").x[0]))
    return found if _helps(log_probs_NC, labels_N, rows, found) else 1.0


def scaled(log_probs_NC: Floats, temperature: float) -> npt.NDArray[np.float32]:
    """Probabilities softmax(log-probabilities / temperature), float32 `[N, C]`; a row that is NaN stays NaN.

    Raises:
        InputError: the temperature is not above 0.
    """
    if not 0 < temperature < np.inf:
        raise InputError(f"temperature: found {temperature}, expected a number above 0")
    found = np.empty(log_probs_NC.shape, np.float32)
    for block in row_blocks(*log_probs_NC.shape):
        found[block] = softmax(_floored(log_probs_NC[block]) / np.float32(temperature), axis=1)
    return found


def _losses(log_probs_BC: Floats, labels_B: Ints, sharpness: float) -> tuple[float, float]:
    """Log-loss in nats of a block of rows at 1 / T = sharpness, and its derivative in log T, both summed.

    Scores are taken relative to the row's highest, which changes neither, so that float32 keeps their digits.
    """
    scores_BC = _floored(log_probs_BC)
    scores_BC -= scores_BC.max(axis=1, keepdims=True)
    scores_BC *= np.float32(sharpness)
    own_B = np.take_along_axis(scores_BC, labels_B[:, None], axis=1)[:, 0].astype(np.float64)
    shares_BC = np.exp(scores_BC)
    totals_B = shares_BC.sum(axis=1, dtype=np.float64)
    mean_B = np.einsum("bc,bc->b", shares_BC, scores_BC) / totals_B
    return float((np.log(totals_B) - own_B).sum()), float((own_B - mean_B).sum())


def _helps(log_probs_NC: Floats, labels_N: Ints, rows: npt.NDArray[np.intp], temperature: float) -> bool:
    """Whether the log-loss of the given rows is lower with the temperature, by more than its standard error."""
    gains = []
    for block in row_blocks(len(rows), log_probs_NC.shape[1]):
        scores_BC, labels_B = _floored(log_probs_NC[rows[block]]), labels_N[rows[block], None]
        after_BC, before_BC = log_softmax(scores_BC / np.float32(temperature), axis=1), log_softmax(scores_BC, axis=1)
        gains.append(np.take_along_axis(after_BC - before_BC, labels_B, axis=1)[:, 0].astype(np.float64))
    if len(rows) < 2:
        return False
    gain_N = np.concatenate(gains)
    return bool(gain_N.mean() > gain_N.std(ddof=1) / np.sqrt(len(gain_N)))


def _floored(log_probs_BC: Floats) -> npt.NDArray[np.float32]:
    """A copy in float32, nothing below `LOWEST`."""
    return np.maximum(log_probs_BC, LOWEST, dtype=np.float32)


def _scored(log_probs_NC: Floats) -> npt.NDArray[np.bool_]:
    return ~np.isnan(log_probs_NC[:, 0])


def _error(log_probs_NC: Floats, labels_N: Ints, temperature: float) -> float | None:
    """Expected calibration error of the best class's confidence at a temperature; None without scored rows."""
    rows = np.flatnonzero(_scored(log_probs_NC))
    confidence, right = np.empty(len(rows), np.float32), np.empty(len(rows), np.bool_)
    for block in row_blocks(len(rows), log_probs_NC.shape[1]):
        probabilities_BC = scaled(log_probs_NC[rows[block]], temperature)
        confidence[block] = probabilities_BC.max(axis=1)
        right[block] = probabilities_BC.argmax(axis=1) == labels_N[rows[block]]
    return calibration_error(confidence, right) if len(rows) else None


def _check(log_probs_NC: Floats, labels_N: Ints) -> None:
    if log_probs_NC.ndim != 2 or labels_N.shape != log_probs_NC.shape[:1] or not log_probs_NC.shape[1]:
        shapes = f"log-probabilities {list(log_probs_NC.shape)} with labels {list(labels_N.shape)}"
        raise InputError(f"calibration: found {shapes}, expected [N, C] with [N]")
    if len(labels_N) and (labels_N.min() < 0 or labels_N.max() >= log_probs_NC.shape[1]):
        classes = log_probs_NC.shape[1]
        raise InputError(f"calibration: found labels {labels_N.min()} to {labels_N.max()}, expected 0 to {classes - 1}")

"""Weighting: stage 1 of late fusion, few parameters, good with few rows.

Shape letters: N products, M models, C classes.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FLOOR = 1e-6
"""A model's probability counts as at least this: one model's zero is no veto."""


class Weighting(NamedTuple):
    """Stage 1: softmax over the classes of the weighted mean of log-probabilities, divided by the temperature."""

    weights: tuple[float, ...]
    """Of each model, `[M]`, positive with sum 1; renormalised per product over the models that scored it."""
    temperature: float
    """Below 1 sharpens (models that agree are surer together than each alone), above 1 softens."""

    def log_probabilities(self, probabilities: npt.NDArray[np.floating]) -> Floats:
        """Joined log-probabilities `[N, C]` of probabilities `[N, M, C]`; uniform where no model scored the product."""
        log_NMC, present_NM = _logs(probabilities)
        shares_NM = _shares(np.log(self.weights), present_NM)
        joined_NC: Floats = log_softmax(np.einsum("nm,nmc->nc", shares_NM, log_NMC) / self.temperature, axis=1)
        return joined_NC


def fit_weighting(probabilities_NMC: npt.NDArray[np.float32], labels_N: Ints) -> Weighting:
    """Most probable weighting given the labels, under a standard normal prior on the log of each parameter.

    The prior is centred on equal weights and temperature 1, and a factor of e away from that costs half a nat: it
    decides with a handful of rows, whose log-loss is a few nats in all, and vanishes with thousands.
    """
    log_NMC, present_NM = _logs(probabilities_NMC)
    rows, models = present_NM.shape

    def objective(parameters: Floats) -> tuple[float, Floats]:
        """Negative log-posterior in nats and its gradient; parameters are M log-weights and the log-temperature."""
        sharpness = np.exp(-parameters[-1])
        shares_NM = _shares(parameters[:-1], present_NM)
        mean_NC = np.einsum("nm,nmc->nc", shares_NM, log_NMC)
        scores_NC = sharpness * mean_NC
        log_NC = log_softmax(scores_NC, axis=1)
        error_NC = np.exp(log_NC)
        error_NC[np.arange(rows), labels_N] -= 1.0
        pull_NM = sharpness * np.einsum("nc,nmc->nm", error_NC, log_NMC)
        centred_NM = pull_NM - (shares_NM * pull_NM).sum(axis=1, keepdims=True)
        gradient = np.append((shares_NM * centred_NM).sum(axis=0), -(error_NC * scores_NC).sum())
        return float(log_losses(log_NC, labels_N).sum() + 0.5 * parameters @ parameters), gradient + parameters

    found = minimize(objective, np.zeros(models + 1), jac=True, method="L-BFGS-B")
    weights = softmax(found.x[:-1])
    return Weighting(weights=tuple(weights.tolist()), temperature=float(np.exp(found.x[-1])))


def log_losses(log_probabilities_NC: Floats, labels_N: Ints) -> Floats:
    """Log-loss of each product, `[N]`, in nats."""
    return -log_probabilities_NC[np.arange(len(labels_N)), labels_N]


def _logs(probabilities: npt.NDArray[np.floating]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Floored log-probabilities `[N, M, C]`, 0 where missing, and which models scored what, `[N, M]`."""
    present_NM = ~np.isnan(probabilities[:, :, 0])
    known_NMC = np.where(present_NM[:, :, None], probabilities, 1.0).astype(np.float64)
    return np.log(np.maximum(known_NMC, FLOOR)), present_NM


def _shares(log_weights: Floats, present_NM: npt.NDArray[np.bool_]) -> Floats:
    """Weights `[N, M]` renormalised over the models that scored each product; 0 where none did."""
    weights_NM = np.where(present_NM, np.exp(log_weights - log_weights.max()), 0.0)
    shares_NM: Floats = weights_NM / np.maximum(weights_NM.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return shares_NM

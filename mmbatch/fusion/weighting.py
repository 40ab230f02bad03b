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
        shares_NM = self.shares(probabilities)
        sum_NC = np.zeros((len(probabilities), probabilities.shape[2]))
        for model in range(probabilities.shape[1]):
            sum_NC += shares_NM[:, model, None] * np.nan_to_num(_floored(probabilities[:, model]))
        joined_NC: Floats = log_softmax(sum_NC / self.temperature, axis=1)
        return joined_NC

    def contributions(self, probabilities: npt.NDArray[np.floating], chosen_N: Ints) -> Floats:
        """What each model adds to the score of one class of each product, `[N, M]`, in nats above the mean class.

        They add up to the log-probability of that class less the mean over all classes, as Shapley values of a linear
        function do (Lundberg & Lee 2017, section 4.2); 0 where a model could not score the product.
        """
        shares_NM, rows = self.shares(probabilities), np.arange(len(probabilities))
        columns = [_floored(probabilities[:, model]) for model in range(probabilities.shape[1])]
        above_NM = np.stack([log_NC[rows, chosen_N] - log_NC.mean(axis=1) for log_NC in columns], axis=1)
        found_NM: Floats = shares_NM * np.nan_to_num(above_NM) / self.temperature
        return found_NM

    def shares(self, probabilities: npt.NDArray[np.floating]) -> Floats:
        """Weights `[N, M]` of the models that scored each product, with sum 1; 0 where none did."""
        return _shares(np.log(self.weights), ~np.isnan(probabilities[:, :, 0]))


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
    return np.nan_to_num(_floored(probabilities).astype(np.float64)), ~np.isnan(probabilities[:, :, 0])


def _floored(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Log-probabilities, NaN where missing."""
    return np.asarray(np.log(np.maximum(probabilities, FLOOR)))


def _shares(log_weights: Floats, present_NM: npt.NDArray[np.bool_]) -> Floats:
    """Weights `[N, M]` renormalised over the models that scored each product; 0 where none did."""
    weights_NM = np.where(present_NM, np.exp(log_weights - log_weights.max()), 0.0)
    shares_NM: Floats = weights_NM / np.maximum(weights_NM.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return shares_NM

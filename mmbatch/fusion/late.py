"""Late fusion: the class probabilities of several models joined into one distribution.

Two stages: a weighting of the models' log-probabilities (`fusion/weighting.py`), which is good with few rows, and
LightGBM boosting from it where cross-validation shows that this lowers the log-loss.
Shape letters: N products, M models, C classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, cast

import lightgbm
import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, softmax

from mmbatch.errors import InputError
from mmbatch.fusion.weighting import Floats, Ints, Weighting, fit_weighting, log_losses

BOOSTER_FILE = "late_fusion.txt"
CONFIG_FILE = "late_fusion.json"

FOLDS = 5
MAX_ROUNDS = 2000
PATIENCE = 100  # rounds without a better cross-validated log-loss before boosting stops: the paper's

PAPER_SETTINGS: Mapping[str, object] = {
    "num_leaves": 22,
    "min_child_samples": 125,
    "min_child_weight": 10.0,
    "reg_alpha": 0.1,
    "reg_lambda": 20.0,
    "colsample_bytree": 0.528,
    "learning_rate": 0.1,  # not in the paper: LightGBM's own default
}
"""Section "boosting" of "Deep Multi-level Boosted Fusion Learning Framework", SIGIR eCom'20."""


@dataclass(frozen=True, kw_only=True)
class LateFusionReport:
    """What was fitted, and the cross-validated evidence for it; log-losses are in nats per product."""

    rows: int
    """Fusion rows that at least one model scored."""
    weights: Mapping[str, float]
    """Model -> weight of stage 1, with sum 1."""
    temperature: float
    rounds: int
    """Boosting rounds; 0: the weighting alone is used."""
    weighting_log_loss: float
    """Of stage 1 on held-out folds."""
    boosting_log_loss: float | None
    """Of stage 2 on held-out folds at its best round; None: too few rows for a single split of a tree."""
    standard_error: float | None
    """Of the difference of the two; boosting is kept where it is lower by more than this."""


@dataclass(frozen=True, kw_only=True)
class LateFusion:
    """Joins the scores of several models (a fusion head, in contrast, joins embeddings).

    Source of stage 2 and of its settings: "Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product
    Classification", SIGIR eCom'20. Unlike there, boosting starts from the weighting, and the rounds are chosen by
    cross-validation, so that no row both stops the boosting and scores it.
    """

    models: tuple[str, ...]
    classes: int
    weighting: Weighting
    booster: lightgbm.Booster | None
    """Raw scores that are added to the weighting's log-probabilities; its feature `m * C + c` is model m's class c."""
    report: LateFusionReport

    @classmethod
    def fit(
        cls,
        probabilities: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        *,
        models: Sequence[str],
        classes: int,
        seed: int,
        threads: int,
    ) -> "LateFusion":
        """Fit on products that no model was trained on.

        Args:
            probabilities: float `[N, M, C]`; NaN in all of `[n, m]` where model m could not score product n.
            labels: true class of each product, int `[N]`, in `range(classes)`; a class may have no product.
            models: names, in the order of axis M.
            classes: number of classes C.
            seed: of the folds and of the boosting; equal seeds give equal results.
            threads: processors reserved for LightGBM.

        Raises:
            InputError: shapes, labels or values are not as above, or fewer than two products have a score.
        """
        _check(probabilities, models=models, classes=classes)
        _check_labels(labels, rows=len(probabilities), classes=classes)
        scored_N = ~np.isnan(probabilities).all(axis=(1, 2))
        kept_NMC, kept_N = np.asarray(probabilities[scored_N], np.float32), np.asarray(labels[scored_N], np.int64)
        if len(kept_N) < 2:
            raise InputError(f"late fusion: found {len(kept_N)} fusion rows with a score, expected at least 2")

        weighting = fit_weighting(kept_NMC, kept_N)
        fold_N = _folds(kept_N, seed=seed)
        start_NC = _held_out_weighting(kept_NMC, kept_N, fold_N)
        parameters = dict(PAPER_SETTINGS) | _reproducible(classes=classes, seed=seed, threads=threads)
        trial = _cross_validate(kept_NMC, kept_N, fold_N, start_NC, parameters)
        booster = None
        if trial is not None and trial.rounds > 0:
            data = _dataset(kept_NMC, kept_N, weighting.log_probabilities(kept_NMC), parameters)
            booster = lightgbm.train(parameters, data, num_boost_round=trial.rounds)
        report = LateFusionReport(
            rows=len(kept_N),
            weights=dict(zip(models, weighting.weights, strict=True)),
            temperature=weighting.temperature,
            rounds=trial.rounds if trial else 0,
            weighting_log_loss=float(log_losses(start_NC, kept_N).mean()),
            boosting_log_loss=trial.log_loss if trial else None,
            standard_error=trial.standard_error if trial else None,
        )
        return cls(models=tuple(models), classes=classes, weighting=weighting, booster=booster, report=report)

    def predict(self, probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Joined probabilities, float32 `[N, C]`, on one thread; uniform where no model scored the product.

        Raises:
            InputError: the probabilities are not `[N, M, C]` as in `fit`.
        """
        _check(probabilities, models=self.models, classes=self.classes)
        scores_NC = self.weighting.log_probabilities(probabilities)
        if self.booster is not None and len(scores_NC):
            scored_N = ~np.isnan(probabilities).all(axis=(1, 2))
            added_NC = self.booster.predict(_table(probabilities), raw_score=True, num_threads=1)
            scores_NC += scored_N[:, None] * np.asarray(added_NC).reshape(scores_NC.shape)
        joined_NC: npt.NDArray[np.float32] = softmax(scores_NC, axis=1).astype(np.float32)
        return joined_NC

    def save(self, folder: Path) -> None:
        """Write `late_fusion.json`, and `late_fusion.txt` (LightGBM's text format) where boosting is used."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.booster is not None:
            (folder / BOOSTER_FILE).write_text(self.booster.model_to_string())
        config = {
            "models": self.models,
            "classes": self.classes,
            "weights": self.weighting.weights,
            "temperature": self.weighting.temperature,
            "report": asdict(self.report),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def load_late_fusion(folder: Path) -> LateFusion:
    """The late fusion that `save` wrote into the folder.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        report = LateFusionReport(**config["report"])
        booster = None
        if report.rounds > 0:
            booster = lightgbm.Booster(model_str=(folder / BOOSTER_FILE).read_text())
        return LateFusion(
            models=tuple(config["models"]),
            classes=config["classes"],
            weighting=Weighting(weights=tuple(config["weights"]), temperature=config["temperature"]),
            booster=booster,
            report=report,
        )
    except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
        raise InputError(f"no late fusion in {folder}: {error}") from error


def _check(probabilities: npt.NDArray[np.floating], *, models: Sequence[str], classes: int) -> None:
    expected = f"[N, {len(models)}, {classes}] for {len(models)} models and {classes} classes"
    if classes < 2:
        raise InputError(f"late fusion: found {classes} classes, expected at least 2")
    if probabilities.ndim != 3 or probabilities.shape[1:] != (len(models), classes) or not models:
        raise InputError(f"late fusion: found probabilities {list(probabilities.shape)}, expected {expected}")
    missing_NMC = np.isnan(probabilities)
    if (missing_NMC.any(axis=2) & ~missing_NMC.all(axis=2)).any():
        raise InputError("late fusion: found NaN beside numbers in the scores of one model for one product")
    if ((probabilities < 0) | (probabilities > 1 + 1e-3)).any():
        raise InputError(
            f"late fusion: found scores from {np.nanmin(probabilities):g} to {np.nanmax(probabilities):g}, "
            "expected probabilities from 0 to 1"
        )


def _check_labels(labels: npt.NDArray[np.integer], *, rows: int, classes: int) -> None:
    if labels.shape != (rows,):
        raise InputError(f"late fusion: found labels {list(labels.shape)}, expected [{rows}]")
    if rows and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"late fusion: found labels {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")


def _folds(labels_N: Ints, *, seed: int) -> Ints:
    """Fold of each product, `[N]`: every class is dealt out evenly, as far as it has products."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels_N)), labels_N))
    fold_N = np.empty(len(labels_N), np.int64)
    fold_N[order] = np.arange(len(labels_N)) % min(FOLDS, len(labels_N))
    return fold_N


def _held_out_weighting(probabilities_NMC: npt.NDArray[np.float32], labels_N: Ints, fold_N: Ints) -> Floats:
    """Log-probabilities `[N, C]` of each product by a weighting that was fitted without its fold."""
    joined_NC = np.empty((len(labels_N), probabilities_NMC.shape[2]))
    for fold in range(fold_N.max() + 1):
        held = fold_N == fold
        weighting = fit_weighting(probabilities_NMC[~held], labels_N[~held])
        joined_NC[held] = weighting.log_probabilities(probabilities_NMC[held])
    return joined_NC


class _Trial(NamedTuple):
    """Outcome of cross-validated boosting: rounds worth keeping, and the log-losses that decided it."""

    rounds: int
    log_loss: float
    standard_error: float


def _cross_validate(
    probabilities_NMC: npt.NDArray[np.float32],
    labels_N: Ints,
    fold_N: Ints,
    start_NC: Floats,
    parameters: dict[str, object],
) -> _Trial | None:
    """Best number of rounds on held-out folds; None where the training folds are too small to split one leaf in two."""
    folds = [(np.flatnonzero(fold_N != k), np.flatnonzero(fold_N == k)) for k in range(fold_N.max() + 1)]
    if min(len(train) for train, _ in folds) < 2 * int(str(parameters["min_child_samples"])):
        return None
    result = lightgbm.cv(
        parameters,
        _dataset(probabilities_NMC, labels_N, start_NC, parameters),
        num_boost_round=MAX_ROUNDS,
        folds=folds,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        return_cvbooster=True,
    )
    trial = cast(lightgbm.CVBooster, result["cvbooster"])
    rounds = trial.best_iteration
    scores_NC = start_NC.copy()
    for booster, (_, held) in zip(trial.boosters, folds, strict=True):
        added = booster.predict(_table(probabilities_NMC[held]), raw_score=True, num_iteration=rounds)
        scores_NC[held] += np.asarray(added).reshape(len(held), -1)
    boosted_N = log_losses(log_softmax(scores_NC, axis=1), labels_N)
    gain_N = log_losses(start_NC, labels_N) - boosted_N
    error = float(gain_N.std(ddof=1) / np.sqrt(len(gain_N)))
    kept = rounds if gain_N.mean() > error else 0
    return _Trial(rounds=kept, log_loss=float(boosted_N.mean()), standard_error=error)


def _reproducible(*, classes: int, seed: int, threads: int) -> dict[str, object]:
    """LightGBM's task, and what makes its result depend on nothing but data and seed."""
    return {
        "objective": "multiclass",
        "metric": "multi_logloss",
        "num_class": classes,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }


def _table(probabilities_NMC: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """LightGBM's features `[N, M * C]`, NaN where missing."""
    return np.asarray(probabilities_NMC, np.float32).reshape(len(probabilities_NMC), -1)


def _dataset(
    probabilities_NMC: npt.NDArray[np.float32], labels_N: Ints, start_NC: Floats, parameters: dict[str, object]
) -> lightgbm.Dataset:
    """Rows to boost, starting from the log-probabilities `[N, C]`."""
    return lightgbm.Dataset(
        _table(probabilities_NMC), labels_N, init_score=start_NC, params=parameters, free_raw_data=False
    )

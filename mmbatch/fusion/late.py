"""Late fusion: the class probabilities of several models joined into one distribution.

Two stages: a weighting of the models' log-probabilities (`fusion/weighting.py`), which is good with few rows, and
LightGBM boosting from it (`fusion/boosting.py`) where cross-validation shows that this lowers the log-loss.
Shape letters: N products, M models, C classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from mmbatch.errors import InputError
from mmbatch.fusion.boosting import (
    Boosting,
    Rows,
    Trial,
    check_recipe,
    cross_validate,
    parameters_of,
    rows_of,
    train_booster,
)
from mmbatch.fusion.weighting import Floats, Ints, Weighting, fit_weighting, log_losses
from mmbatch.metrics import f1_scores
from mmbatch.training import LateFusionRecipe

BOOSTER_FILE = "late_fusion.txt"
CONFIG_FILE = "late_fusion.json"

FOLDS = 5

MISTAKES = 10
"""Held-out rows that the weighting gets wrong, for boosting to be tried: with fewer, cross-validation hardly sees what
boosting makes worse, and all it learns is to be surer (ten events a parameter, Peduzzi et al. 1996)."""

LITTLE = 1e-6
"""Weight that the others share where one model is better alone: they have a word only where it is missing."""

SUM_TOLERANCE = 1e-3
"""How far probabilities of one model, float32 over thousands of classes, may be from summing up to 1."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How good scores are on held-out folds of the fusion rows."""

    log_loss: float
    """In nats per product."""
    macro_f1: float


@dataclass(frozen=True, kw_only=True)
class LateFusionReport:
    """What was fitted, and the cross-validated evidence for it, all of it on folds that were held out."""

    rows: int
    """Fusion rows that at least one model scored."""
    kept: str
    """`boosting`, `weighting`, or the model that is better alone than joined with the others."""
    weights: Mapping[str, float]
    """Model -> weight of stage 1, with sum 1."""
    temperature: float
    rounds: int
    """Boosting rounds; 0: stage 1 alone is used."""
    inputs: Mapping[str, Scored]
    """Each model alone, with a temperature of its own; where it is missing, the others joined."""
    weighting: Scored
    """Stage 1."""
    boosting: Scored | None
    """Stage 2 at its best round; None: too few rows for a single split of a tree, or too few mistakes to learn from."""
    standard_error: float | None
    """Of the difference of the log-losses of the two; boosting is kept where it is lower by more than this."""

    def describe(self) -> str:
        """One line on what is kept and why."""
        tried = {"weighting": self.weighting} | ({"boosting": self.boosting} if self.boosting else {})
        best = min(self.inputs, key=lambda name: self.inputs[name].log_loss)
        scores = ", ".join(f"{name} {each.log_loss:.4f}" for name, each in (tried | {best: self.inputs[best]}).items())
        said = f"kept {self.kept}; log-loss on held-out folds of {self.rows:,} fusion rows: {scores}"
        kept = (tried | dict(self.inputs))[self.kept].macro_f1
        leader = max(self.inputs, key=lambda name: self.inputs[name].macro_f1)
        if (lead := self.inputs[leader].macro_f1) > kept:
            said += f"; no better in macro-F1 than {leader} alone, {kept:.4f} to {lead:.4f}"
        return said


@dataclass(frozen=True, kw_only=True)
class LateFusion:
    """Joins the scores of several models (a fusion head, in contrast, joins embeddings).

    Source of stage 2: "Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product Classification",
    SIGIR eCom'20. Unlike there, boosting starts from the weighting, and the rounds are chosen by cross-validation, so
    that no row both stops the boosting and scores it.
    """

    models: tuple[str, ...]
    classes: int
    weighting: Weighting
    boosting: Boosting | None
    report: LateFusionReport

    @classmethod
    def fit(
        cls,
        probabilities: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        *,
        models: Sequence[str],
        classes: int,
        recipe: LateFusionRecipe,
        seed: int,
        threads: int,
    ) -> "LateFusion":
        """Fit on products that no model was trained on.

        Args:
            probabilities: float `[N, M, C]`; NaN in all of `[n, m]` where model m could not score product n.
            labels: true class of each product, int `[N]`, in `range(classes)`; a class may have no product.
            models: names, in the order of axis M.
            classes: number of classes C.
            recipe: how stage 2 boosts.
            seed: of the folds and of the boosting; equal seeds give equal results.
            threads: processors reserved for LightGBM.

        Raises:
            InputError: shapes, labels or values are not as above, fewer than two products have a score, or LightGBM
                refuses the recipe.
        """
        check_scores(probabilities, models=models, classes=classes)
        _check_labels(labels, rows=len(probabilities), classes=classes)
        scored_N = ~np.isnan(probabilities).all(axis=(1, 2))
        kept_NMC, kept_N = np.asarray(probabilities[scored_N], np.float32), np.asarray(labels[scored_N], np.int64)
        if len(kept_N) < 2:
            raise InputError(f"late fusion: found {len(kept_N)} fusion rows with a score, expected at least 2")
        parameters = parameters_of(recipe, classes=classes, seed=seed, threads=threads)
        check_recipe(recipe, parameters)

        fold_N = _folds(kept_N, seed=seed)
        start_NC = _held_out(kept_NMC, kept_N, fold_N, None)
        alone = {name: _held_out(kept_NMC, kept_N, fold_N, model) for model, name in enumerate(models)}
        trial = None
        if np.count_nonzero(start_NC.argmax(axis=1) != kept_N) >= MISTAKES:
            trial = cross_validate(recipe, kept_NMC, kept_N, fold_N, start_NC, parameters)
        boosts = trial is not None and trial.rounds > 0 and trial.gain > trial.standard_error
        kept = "boosting" if boosts else _best_stage(start_NC, alone, kept_N)
        weighting = _fit_stage(kept_NMC, kept_N, models.index(kept) if kept in models else None)
        report = _report(kept, models, weighting, trial, start_NC, alone, kept_N)
        fusion = cls(models=tuple(models), classes=classes, weighting=weighting, boosting=None, report=report)
        if not boosts:
            return fusion
        rows = rows_of(recipe, kept_NMC, weighting.log_probabilities(kept_NMC))
        booster = train_booster(rows, kept_N, parameters, rounds=report.rounds)
        return replace(fusion, boosting=Boosting(recipe=recipe, booster=booster))

    def predict(self, probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Joined probabilities, float32 `[N, C]`, on one thread; uniform where no model scored the product.

        Raises:
            InputError: the probabilities are not `[N, M, C]` as in `fit`.
        """
        check_scores(probabilities, models=self.models, classes=self.classes)
        scores_NC = self.weighting.log_probabilities(probabilities)
        if self.boosting is not None and len(scores_NC):
            scores_NC = self.boosting.add(probabilities, scores_NC)
        joined_NC: npt.NDArray[np.float32] = softmax(scores_NC, axis=1).astype(np.float32)
        return joined_NC

    def boosting_rows(self, probabilities: npt.NDArray[np.floating]) -> Rows:
        """What LightGBM learns from products that it is to boost on, `[N, M, C]`; only with `boosting`."""
        assert self.boosting is not None
        return rows_of(self.boosting.recipe, probabilities, self.weighting.log_probabilities(probabilities))

    def save(self, folder: Path) -> None:
        """Write `late_fusion.json`, and `late_fusion.txt` (LightGBM's text format) where boosting is used."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.boosting is not None:
            (folder / BOOSTER_FILE).write_text(self.boosting.booster.model_to_string())
        config = {
            "models": self.models,
            "classes": self.classes,
            "weights": self.weighting.weights,
            "temperature": self.weighting.temperature,
            "recipe": asdict(self.boosting.recipe) if self.boosting else None,
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
        boosting = None
        if config["recipe"]:
            booster = lightgbm.Booster(model_str=(folder / BOOSTER_FILE).read_text())
            boosting = Boosting(recipe=LateFusionRecipe(**config["recipe"]), booster=booster)
        return LateFusion(
            models=tuple(config["models"]),
            classes=config["classes"],
            weighting=Weighting(weights=tuple(config["weights"]), temperature=config["temperature"]),
            boosting=boosting,
            report=_report_of(config["report"]),
        )
    except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
        raise InputError(f"no late fusion in {folder}: {error}") from error


def check_scores(probabilities: npt.NDArray[np.floating], *, models: Sequence[str], classes: int) -> None:
    """`InputError` where scores are no distributions `[N, M, C]` over the classes, or NaN beside numbers."""
    expected = f"[N, {len(models)}, {classes}] for {len(models)} models and {classes} classes"
    if classes < 2:
        raise InputError(f"late fusion: found {classes} classes, expected at least 2")
    if probabilities.ndim != 3 or probabilities.shape[1:] != (len(models), classes) or not models:
        raise InputError(f"late fusion: found probabilities {list(probabilities.shape)}, expected {expected}")
    sums_NM, lowest_NM = probabilities.sum(axis=2), probabilities.min(axis=2)
    for model, name in enumerate(models):
        missing_N = np.isnan(sums_NM[:, model])
        if not np.isnan(probabilities[missing_N, model]).all():
            raise InputError(f"late fusion: found NaN beside numbers in the scores of {name} for one product")
        low_N, sum_N = lowest_NM[~missing_N, model], sums_NM[~missing_N, model]
        if (low_N < 0).any() or (np.abs(sum_N - 1) > SUM_TOLERANCE).any():
            raise InputError(
                f"late fusion: found scores of {name} from {low_N.min():g} on with sums from {sum_N.min():g} to "
                f"{sum_N.max():g}, expected probabilities from 0 on with sum 1"
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


def _fit_stage(probabilities_NMC: npt.NDArray[np.float32], labels_N: Ints, alone: int | None) -> Weighting:
    """The weighting of all models, or that of one alone: with nearly all the weight, and its own temperature."""
    weighting = fit_weighting(probabilities_NMC, labels_N)
    if alone is None or probabilities_NMC.shape[1] == 1:
        return weighting
    others = np.delete(weighting.weights, alone)
    weights = np.insert(LITTLE * others / others.sum(), alone, 1 - LITTLE)
    own = fit_weighting(probabilities_NMC[:, [alone]], labels_N)
    return Weighting(weights=tuple(weights.tolist()), temperature=own.temperature)


def _held_out(probabilities_NMC: npt.NDArray[np.float32], labels_N: Ints, fold_N: Ints, alone: int | None) -> Floats:
    """Log-probabilities `[N, C]` of each product by a weighting that was fitted without its fold."""
    joined_NC = np.empty((len(labels_N), probabilities_NMC.shape[2]))
    for fold in range(fold_N.max() + 1):
        held = fold_N == fold
        weighting = _fit_stage(probabilities_NMC[~held], labels_N[~held], alone)
        joined_NC[held] = weighting.log_probabilities(probabilities_NMC[held])
    return joined_NC


def _best_stage(start_NC: Floats, alone: Mapping[str, Floats], labels_N: Ints) -> str:
    """The weighting, unless one model alone has a log-loss that is lower by more than a standard error."""
    best, lead = "weighting", 0.0
    for name, scores_NC in alone.items():
        gain_N = log_losses(start_NC, labels_N) - log_losses(scores_NC, labels_N)
        if gain_N.mean() > max(lead, float(gain_N.std(ddof=1) / np.sqrt(len(gain_N)))):
            best, lead = name, float(gain_N.mean())
    return best


def _report(
    kept: str,
    models: Sequence[str],
    weighting: Weighting,
    trial: Trial | None,
    start_NC: Floats,
    alone: Mapping[str, Floats],
    labels_N: Ints,
) -> LateFusionReport:
    return LateFusionReport(
        rows=len(labels_N),
        kept=kept,
        weights=dict(zip(models, weighting.weights, strict=True)),
        temperature=weighting.temperature,
        rounds=trial.rounds if trial and kept == "boosting" else 0,
        inputs={name: _scored(scores_NC, labels_N) for name, scores_NC in alone.items()},
        weighting=_scored(start_NC, labels_N),
        boosting=_scored(trial.scores, labels_N) if trial else None,
        standard_error=trial.standard_error if trial else None,
    )


def _scored(scores_NC: Floats, labels_N: Ints) -> Scored:
    macro = f1_scores(labels_N, scores_NC.argmax(axis=1)).macro
    return Scored(log_loss=float(log_losses(scores_NC, labels_N).mean()), macro_f1=macro)


def _report_of(config: dict[str, Any]) -> LateFusionReport:
    inputs = {name: Scored(**each) for name, each in config["inputs"].items()}
    boosting = Scored(**config["boosting"]) if config["boosting"] else None
    return LateFusionReport(
        **config | {"inputs": inputs, "weighting": Scored(**config["weighting"]), "boosting": boosting}
    )

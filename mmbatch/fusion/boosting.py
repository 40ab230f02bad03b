"""Boosting: stage 2 of late fusion, LightGBM over the models' probabilities, starting from the weighting's.

Two objectives (`LateFusionRecipe.objective`):

    multiclass   a row per product, every model's probability of every class; a tree per class and round: the paper's
    candidates   a row per product and class that some model ranks high, with what each model says of that class; one
                 tree per round whatever the number of classes, and what is learned of one class holds for all

Shape letters: N products, M models, C classes, R rows of LightGBM, F features of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import lightgbm
import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from mmbatch.errors import InputError
from mmbatch.fusion.weighting import FLOOR, Floats, Ints, log_losses
from mmbatch.training import LateFusionRecipe

MAX_ROUNDS = 2000
PATIENCE = 100
"""Rounds without a better cross-validated log-loss before boosting stops: the paper's."""


class Rows(NamedTuple):
    """What LightGBM sees."""

    product: Ints
    """Of each row, `[R]`, ascending."""
    category: Ints
    """Class code of each candidate, `[R]`; with `multiclass`, where a row is a whole product, 0."""
    table: npt.NDArray[np.float32]
    """Features `[R, F]`, NaN where a model could not score the product."""
    start: Floats
    """Raw score that boosting starts from: log-odds of each candidate, `[R]`; with `multiclass`, `[R, C]`."""


@dataclass(frozen=True, kw_only=True)
class Boosting:
    """A trained booster; raw scores of `booster` are added to log-probabilities of the weighting."""

    recipe: LateFusionRecipe
    booster: lightgbm.Booster

    def add(self, probabilities: npt.NDArray[np.floating], start_NC: Floats) -> Floats:
        """Raw scores `[N, C]` of probabilities `[N, M, C]` and the weighting's log-probabilities."""
        return self.add_to_rows(rows_of(self.recipe, probabilities, start_NC), start_NC)

    def add_to_rows(self, rows: Rows, start_NC: Floats, *, rounds: int | None = None) -> Floats:
        """The same of rows that are made already; `rounds` are the first ones, None: all."""
        if not len(rows.product):
            return start_NC
        raw = np.asarray(self.booster.predict(rows.table, raw_score=True, num_threads=1, num_iteration=rounds))
        scores_NC = start_NC.copy()
        if self.recipe.objective == "multiclass":
            scores_NC[rows.product] += raw.reshape(len(rows.product), -1)
        else:
            scores_NC[rows.product, rows.category] += raw
        return scores_NC


def rows_of(recipe: LateFusionRecipe, probabilities: npt.NDArray[np.floating], start_NC: Floats) -> Rows:
    """LightGBM's rows of the products that at least one model scored."""
    scored_N = np.flatnonzero(~np.isnan(probabilities[:, :, 0]).all(axis=1))
    if recipe.objective == "multiclass":
        width = probabilities.shape[1] * probabilities.shape[2]
        table_RF = np.asarray(probabilities[scored_N], np.float32).reshape(len(scored_N), width)
        return Rows(scored_N, np.zeros(len(scored_N), np.int64), table_RF, start_NC[scored_N])
    return _candidates(np.asarray(probabilities[scored_N], np.float32), start_NC[scored_N], scored_N, recipe.candidates)


def models_of_features(recipe: LateFusionRecipe, *, models: int, features: int) -> Ints:
    """Which model each feature of a row comes from, `[F]`."""
    each = np.arange(features)
    return each // (features // models) if recipe.objective == "multiclass" else each % models


def join_rows(parts: Sequence[Rows], products: Sequence[int]) -> Rows:
    """Rows of several parts of the products as one; `products` says how many each part has."""
    shifts = np.cumsum([0, *products[:-1]])
    shifted = [part._replace(product=part.product + shift) for part, shift in zip(parts, shifts, strict=True)]
    return Rows(*(np.concatenate(columns) for columns in zip(*shifted, strict=True)))


def train_booster(rows: Rows, labels_N: Ints, parameters: Mapping[str, object], *, rounds: int) -> lightgbm.Booster:
    """Boost for a fixed number of rounds."""
    return lightgbm.train(dict(parameters), dataset_of(rows, labels_N, parameters), num_boost_round=rounds)


def dataset_of(rows: Rows, labels_N: Ints, parameters: Mapping[str, object]) -> lightgbm.Dataset:
    """Rows with their targets: a product's class, or whether a candidate is the product's class."""
    target_R = labels_N[rows.product]
    if parameters["objective"] != "multiclass":
        target_R = (target_R == rows.category).astype(np.int64)
    return lightgbm.Dataset(rows.table, target_R, init_score=rows.start, params=dict(parameters), free_raw_data=False)


def parameters_of(recipe: LateFusionRecipe, *, classes: int, seed: int, threads: int) -> dict[str, object]:
    """LightGBM's parameters: the recipe, the task, and what makes its result depend on nothing but data and seed."""
    multiclass = recipe.objective == "multiclass"
    return {
        "objective": "multiclass" if multiclass else "binary",
        **({"num_class": classes} if multiclass else {}),
        "metric": "multi_logloss" if multiclass else "binary_logloss",
        "num_leaves": recipe.num_leaves,
        "min_child_samples": recipe.min_child_samples,
        "min_child_weight": recipe.min_child_weight,
        "reg_alpha": recipe.reg_alpha,
        "reg_lambda": recipe.reg_lambda,
        "colsample_bytree": recipe.colsample_bytree,
        "learning_rate": recipe.learning_rate,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }


def check_recipe(recipe: LateFusionRecipe, parameters: Mapping[str, object]) -> None:
    """`InputError` where there are too few candidates, or LightGBM refuses one of its parameters."""
    if recipe.candidates < 2:
        raise InputError(f"late fusion: found candidates={recipe.candidates}, expected 2 or more")
    try:
        lightgbm.Booster(dict(parameters), lightgbm.Dataset(np.zeros((2, 1)), [0, 1], params=dict(parameters)))
    except lightgbm.basic.LightGBMError as error:
        reason = str(error).partition(" at /")[0]  # where in LightGBM's own files
        raise InputError(f"late fusion: LightGBM refuses the recipe: {reason}") from error


class Trial(NamedTuple):
    """Outcome of cross-validated boosting."""

    rounds: int
    scores: Floats
    """Log-probabilities `[N, C]` of each product by boosting that has not seen it."""
    log_loss: float
    standard_error: float
    """Of the mean difference between the log-losses of the start and of boosting."""
    gain: float
    """That mean difference, in nats."""


def cross_validate(
    recipe: LateFusionRecipe,
    probabilities_NMC: npt.NDArray[np.float32],
    labels_N: Ints,
    fold_N: Ints,
    start_NC: Floats,
    parameters: Mapping[str, object],
) -> Trial | None:
    """The best number of rounds on held-out folds; None where training folds are too small to split a leaf in two."""
    rows = rows_of(recipe, probabilities_NMC, start_NC)
    fold_R = fold_N[rows.product]
    folds = [(np.flatnonzero(fold_R != k), np.flatnonzero(fold_R == k)) for k in range(fold_N.max() + 1)]
    if min(len(train) for train, _ in folds) < 2 * recipe.min_child_samples:
        return None
    result = lightgbm.cv(
        dict(parameters),
        dataset_of(rows, labels_N, parameters),
        num_boost_round=MAX_ROUNDS,
        folds=folds,
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        return_cvbooster=True,
    )
    found = cast(lightgbm.CVBooster, result["cvbooster"])
    scores_NC = _held_out(recipe, found, rows, [held for _, held in folds], start_NC)
    boosted_N = log_losses(scores_NC, labels_N)
    gain_N = log_losses(start_NC, labels_N) - boosted_N
    error = float(gain_N.std(ddof=1) / np.sqrt(len(gain_N)))
    return Trial(found.best_iteration, scores_NC, float(boosted_N.mean()), error, float(gain_N.mean()))


def _held_out(
    recipe: LateFusionRecipe,
    found: lightgbm.CVBooster,
    rows: Rows,
    held: Sequence[npt.NDArray[np.intp]],
    start_NC: Floats,
) -> Floats:
    """Log-probabilities `[N, C]` of each product by the booster that has not seen it."""
    scores_NC = start_NC.copy()
    for booster, chosen in zip(found.boosters, held, strict=True):
        mine, place = np.unique(rows.product[chosen], return_inverse=True)
        part = Rows(np.asarray(place, np.int64), rows.category[chosen], rows.table[chosen], rows.start[chosen])
        boosting = Boosting(recipe=recipe, booster=booster)
        scores_NC[mine] = boosting.add_to_rows(part, start_NC[mine], rounds=found.best_iteration)
    return cast(Floats, log_softmax(scores_NC, axis=1))


def _candidates(probabilities_NMC: npt.NDArray[np.float32], start_NC: Floats, product_N: Ints, count: int) -> Rows:
    """The classes that a model or the weighting ranks among its `count` best.

    Features of a class, M each: every model's log-probability of it, and how far that is above the model's best other
    class (below 0: the model prefers another).
    """
    width = min(count, start_NC.shape[1])
    known = (np.where(np.isnan(scores_NC), start_NC, scores_NC) for scores_NC in probabilities_NMC.swapaxes(0, 1))
    tops = [_top(scores_NC, width) for scores_NC in (start_NC, *known)]
    class_NK = np.sort(np.concatenate(tops, axis=1), axis=1)
    first_NK = np.ones(class_NK.shape, bool)
    first_NK[:, 1:] = class_NK[:, 1:] != class_NK[:, :-1]
    at_R, column_R = np.nonzero(first_NK)
    class_R = class_NK[at_R, column_R]
    log_RM = _log(probabilities_NMC[at_R, :, class_R])
    best_NM2 = _two_best(probabilities_NMC, tops[1:])
    best_RM = np.where(log_RM >= best_NM2[at_R, :, 0], best_NM2[at_R, :, 1], best_NM2[at_R, :, 0])
    chance_R = np.clip(np.exp(start_NC[at_R, class_R]), FLOOR, 1 - FLOOR)
    table_RF = np.concatenate([log_RM, log_RM - best_RM], axis=1)
    return Rows(product_N[at_R], class_R, table_RF, np.log(chance_R / (1 - chance_R)))


def _top(scores_NC: npt.NDArray[np.floating], width: int) -> Ints:
    """The classes of the highest scores, `[N, width]`, in no order."""
    return np.asarray(np.argpartition(scores_NC, -width, axis=1)[:, -width:], np.int64)


def _two_best(probabilities_NMC: npt.NDArray[np.float32], tops: Sequence[Ints]) -> npt.NDArray[np.float32]:
    """Highest and second highest log-probability of each model, `[N, M, 2]`."""
    pairs = []
    for model, top_NK in enumerate(tops):
        ranked_NK = np.sort(np.take_along_axis(probabilities_NMC[:, model], top_NK, axis=1), axis=1)
        pairs.append(_log(ranked_NK[:, [-1, -2]]))
    return np.stack(pairs, axis=1)


def _log(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.log(np.maximum(probabilities, np.float32(FLOOR)))

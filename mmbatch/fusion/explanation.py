"""Explanation: how much each model speaks for the category that late fusion has chosen, as SHAP values.

A value is in nats of the raw score of that category. The weighting is linear in the models' log-probabilities, so its
Shapley values are its terms; those of the boosted trees are LightGBM's own (`pred_contrib`, the algorithm of
`shap.TreeExplainer`), summed over the features that come from a model.

Source: Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions", 2017; Lundberg et al., "From local
explanations to global understanding with explainable AI for trees", 2020; summed per model as in "Deep Multi-level
Boosted Fusion Learning Framework for Multi-modal Product Classification", SIGIR eCom'20, section 9.
Shape letters: N products, M models, C classes, R rows and F features of LightGBM.
"""

import re

import lightgbm
import numpy as np
import numpy.typing as npt

from mmbatch.fusion.boosting import Boosting, Rows, models_of_features, rows_of
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.weighting import Floats, Ints

_TREES = re.compile(r"\n(?=Tree=\d)|\n(?=end of trees)")


def contributions(
    fusion: LateFusion, probabilities: npt.NDArray[np.floating], chosen: npt.NDArray[np.integer]
) -> npt.NDArray[np.float32]:
    """What each model contributes to the score of one class of each product, float32 `[N, M]`, in nats.

    Args:
        fusion: the late fusion.
        probabilities: float `[N, M, C]`, as in `LateFusion.predict`.
        chosen: the class of each product to explain, int `[N]`: the one that was predicted, as a rule.

    Returns:
        Above 0: speaks for the class; 0 where a model could not score the product and boosting made nothing of that.
    """
    chosen_N = np.asarray(chosen, np.int64)
    found_NM = fusion.weighting.contributions(probabilities, chosen_N)
    if fusion.boosting is not None and len(chosen_N):
        rows = rows_of(fusion.boosting.recipe, probabilities, fusion.weighting.log_probabilities(probabilities))
        found_NM += _boosted(fusion.boosting, rows, chosen_N, models=len(fusion.models), classes=fusion.classes)
    return found_NM.astype(np.float32)


def _boosted(boosting: Boosting, rows: Rows, chosen_N: Ints, *, models: int, classes: int) -> Floats:
    """SHAP values of the trees, `[N, M]`; of one row a product, and only of the trees of its class."""
    model_F = models_of_features(boosting.recipe, models=models, features=rows.table.shape[1])
    of_model_FM = np.eye(models)[model_F]
    found_NM = np.zeros((len(chosen_N), models))
    if boosting.recipe.objective == "candidates":
        explained = rows.category == chosen_N[rows.product]
        values_RF = _shap(boosting.booster, rows.table[explained])
        found_NM[rows.product[explained]] = values_RF @ of_model_FM
        return found_NM
    for category in np.unique(chosen_N[rows.product]):
        explained = chosen_N[rows.product] == category
        trees = trees_of_class(boosting.booster, int(category), classes)
        found_NM[rows.product[explained]] = _shap(trees, rows.table[explained]) @ of_model_FM
    return found_NM


def _shap(booster: lightgbm.Booster, table_RF: npt.NDArray[np.float32]) -> Floats:
    """SHAP value of each feature, `[R, F]`, on one thread; the last column, the mean of all rows, is left out."""
    if not len(table_RF):
        return np.zeros(table_RF.shape)
    values: Floats = np.asarray(booster.predict(table_RF, pred_contrib=True, num_threads=1))[:, :-1]
    return values


def trees_of_class(booster: lightgbm.Booster, category: int, classes: int) -> lightgbm.Booster:
    """The trees of a multiclass booster that score one class, as a booster of its own.

    Explaining a product by the trees of its class alone takes a `classes`-th of the time. LightGBM's text format has
    the trees in order, `classes` a round; without `tree_sizes` it is read tree by tree.
    """
    header, *trees, ending = _TREES.split(booster.model_to_string())
    lines = [line for line in header.split("\n") if not line.startswith(("tree_sizes=", "objective="))]
    header = "\n".join(re.sub(r"^(num_class|num_tree_per_iteration)=\d+$", r"\1=1", line) for line in lines)
    kept = [re.sub(r"^Tree=\d+", f"Tree={at}", tree) for at, tree in enumerate(trees[category::classes])]
    return lightgbm.Booster(model_str="\n".join([header, *kept, ending]))

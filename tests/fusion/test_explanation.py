import warnings

import lightgbm
import numpy as np
import pytest
from scipy.special import log_softmax

from mmbatch.fusion.boosting import rows_of
from mmbatch.fusion.explanation import contributions, trees_of_class
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.weighting import Weighting
from tests.fusion.test_late import CANDIDATES, PAPER, crossed, fit, scored, trusted_where_sure

with warnings.catch_warnings(action="ignore"):  # of its colour maps
    import shap


def raw_scores(fusion: LateFusion, probabilities: np.ndarray) -> np.ndarray:
    start = fusion.weighting.log_probabilities(probabilities)
    return start if fusion.boosting is None else fusion.boosting.add(probabilities, start)


def test_contributions_of_a_weighting_add_up_to_its_score() -> None:
    probabilities, _ = scored(50, skill=(1.0, 2.0, 0.5))
    probabilities[3, 1] = np.nan
    weighting = Weighting(weights=(0.2, 0.5, 0.3), temperature=0.7)
    chosen = np.arange(50) % 4
    found = weighting.contributions(probabilities, chosen)
    logs = weighting.log_probabilities(probabilities)
    np.testing.assert_allclose(found.sum(axis=1), logs[np.arange(50), chosen] - logs.mean(axis=1), atol=1e-6)
    assert found[3, 1] == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_trees_of_a_class_explain_as_the_whole_booster_does(classes: int) -> None:
    rng = np.random.default_rng(0)
    table, labels = rng.normal(size=(400, 5)), rng.integers(classes, size=400)
    table[:, 0] += labels
    parameters = {"objective": "multiclass", "num_class": classes, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(table, labels), num_boost_round=7)
    whole = np.asarray(booster.predict(table, pred_contrib=True)).reshape(400, classes, 6)
    explained = shap.TreeExplainer(booster).shap_values(table)
    for category in range(classes):
        one = np.asarray(trees_of_class(booster, category, classes).predict(table, pred_contrib=True))
        np.testing.assert_allclose(one, whole[:, category], atol=1e-12)
        np.testing.assert_allclose(one[:, :-1], explained[..., category], atol=1e-6)


def test_contributions_of_a_multiclass_booster_are_shap_values_summed_per_model() -> None:
    probabilities, labels = crossed(1500)
    probabilities[::7, 1] = np.nan
    fusion = fit(probabilities, labels, recipe=PAPER)
    assert fusion.boosting is not None
    chosen = fusion.predict(probabilities).argmax(axis=1)
    explained = shap.TreeExplainer(fusion.boosting.booster).shap_values(probabilities.reshape(1500, 4))
    of_class = explained[np.arange(1500), :, chosen].reshape(1500, 2, 2).sum(axis=2)
    expected = fusion.weighting.contributions(probabilities, chosen) + of_class
    np.testing.assert_allclose(contributions(fusion, probabilities, chosen), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:LightGBM binary classifier with TreeExplainer")
def test_contributions_over_candidates_are_shap_values_summed_per_model() -> None:
    probabilities, labels = trusted_where_sure(1500)
    fusion = fit(probabilities, labels, recipe=CANDIDATES)
    assert fusion.boosting is not None
    chosen = fusion.predict(probabilities).argmax(axis=1)
    rows = rows_of(CANDIDATES, probabilities, fusion.weighting.log_probabilities(probabilities))
    mine = rows.category == chosen[rows.product]
    values = shap.TreeExplainer(fusion.boosting.booster).shap_values(rows.table[mine])
    assert values.shape == (1500, 4)
    expected = fusion.weighting.contributions(probabilities, chosen) + values[:, :2] + values[:, 2:]
    found = contributions(fusion, probabilities, chosen)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_model_that_is_right_speaks_for_the_category() -> None:
    probabilities, labels = scored(300, skill=(0.3, 3.0))
    fusion = fit(probabilities, labels)
    found = contributions(fusion, probabilities, labels).mean(axis=0)
    assert found[1] > 5 * abs(found[0])
    scores = log_softmax(raw_scores(fusion, probabilities), axis=1)
    best = contributions(fusion, probabilities, scores.argmax(axis=1)).sum(axis=1)
    assert (best >= contributions(fusion, probabilities, scores.argmin(axis=1)).sum(axis=1)).all()


def test_no_rows_have_no_contributions() -> None:
    fusion = fit(*crossed(600))
    assert contributions(fusion, np.empty((0, 2, 2), np.float32), np.empty(0, int)).shape == (0, 2)


def test_a_product_without_scores_contributes_nothing() -> None:
    fusion = fit(*trusted_where_sure(1500), recipe=CANDIDATES)
    nothing = np.full((2, 2, 30), np.nan, np.float32)
    np.testing.assert_array_equal(contributions(fusion, nothing, np.zeros(2, int)), 0)

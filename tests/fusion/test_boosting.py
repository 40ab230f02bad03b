import numpy as np
import pytest
from scipy.special import softmax

from mmbatch.fusion.boosting import models_of_features, parameters_of, rows_of
from mmbatch.fusion.weighting import Weighting
from mmbatch.training import LateFusionRecipe

RECIPE = LateFusionRecipe(candidates=2)
EVEN = Weighting(weights=(0.5, 0.5), temperature=1.0)


def random_scores(rows: int, *, classes: int, seed: int = 0) -> np.ndarray:
    return softmax(np.random.default_rng(seed).normal(size=(rows, 2, classes)), axis=2).astype(np.float32)


def test_candidates_are_what_some_model_or_the_weighting_ranks_high() -> None:
    scores = np.array([[[0.6, 0.3, 0.05, 0.05], [0.05, 0.05, 0.3, 0.6]]], np.float32)
    rows = rows_of(RECIPE, scores, np.log([[0.25, 0.24, 0.26, 0.25]]))
    assert rows.product.tolist() == [0, 0, 0, 0]
    assert rows.category.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(rows.table[0], np.log([0.6, 0.05, 0.6 / 0.3, 0.05 / 0.6]), rtol=1e-5)
    np.testing.assert_allclose(rows.table[2], np.log([0.05, 0.3, 0.05 / 0.6, 0.3 / 0.6]), rtol=1e-5)
    two = rows_of(RECIPE, scores[:, [0, 0]], np.log([[0.4, 0.3, 0.2, 0.1]]))
    assert two.category.tolist() == [0, 1]


def test_rows_grow_with_candidates_and_not_with_classes() -> None:
    scores = random_scores(50, classes=3000)
    rows = rows_of(RECIPE, scores, EVEN.log_probabilities(scores))
    assert len(rows.product) <= 50 * 3 * 2
    assert rows.table.shape == (len(rows.product), 4)
    assert rows.table.dtype == np.float32
    assert set(rows.product) == set(range(50))
    assert (scores.argmax(axis=2) == rows.category.reshape(-1)[0]).any()


def test_a_missing_model_is_missing_and_brings_no_candidates_of_its_own() -> None:
    scores = random_scores(4, classes=100)
    scores[1, 0], scores[2] = np.nan, np.nan
    rows = rows_of(RECIPE, scores, EVEN.log_probabilities(scores))
    assert set(rows.product) == {0, 1, 3}
    alone = rows.product == 1
    assert set(rows.category[alone]) == set(np.argsort(scores[1, 1])[-2:])
    assert np.isnan(rows.table[alone][:, [0, 2]]).all()
    assert np.isfinite(rows.table[alone][:, [1, 3]]).all()


def test_multiclass_rows_are_whole_products() -> None:
    scores = random_scores(3, classes=4)
    scores[1] = np.nan
    recipe = LateFusionRecipe(objective="multiclass")
    rows = rows_of(recipe, scores, EVEN.log_probabilities(scores))
    assert rows.product.tolist() == [0, 2]
    np.testing.assert_array_equal(rows.table, scores[[0, 2]].reshape(2, 8))


def test_features_belong_to_models() -> None:
    assert models_of_features(RECIPE, models=3, features=6).tolist() == [0, 1, 2, 0, 1, 2]
    multiclass = LateFusionRecipe(objective="multiclass")
    assert models_of_features(multiclass, models=2, features=8).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(("objective", "expected"), [("candidates", "binary"), ("multiclass", "multiclass")])
def test_parameters_are_reproducible(objective: str, expected: str) -> None:
    recipe = LateFusionRecipe(objective=objective)  # type: ignore[arg-type]
    found = parameters_of(recipe, classes=5, seed=3, threads=1)
    assert found["objective"] == expected
    assert found.get("num_class") == (5 if objective == "multiclass" else None)
    assert (found["deterministic"], found["seed"], found["num_threads"]) == (True, 3, 1)

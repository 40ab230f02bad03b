import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from mmbatch.metrics import (
    UNSCORED,
    confusion,
    f1_scores,
    hierarchical_scores,
    kakao_score,
    level_accuracies,
    per_class,
)

GOLD = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])
"""Class 0: tp 2, fp 0, fn 1. Class 1: tp 1, fp 1, fn 1. Class 2: tp 1, fp 1, fn 0."""

GOLD_PATHS = np.array([[0, 0, 0, 0], [0, 0, 1, -1], [1, 2, -1, -1], [1, 2, 3, 1]])
PREDICTED_PATHS = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 2, 0], [-1, -1, -1, -1]])
"""Right of the products that have the level: main 3 of 4, middle 2 of 4, small 2 of 3, sub 0 of 2."""


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    """1,000 products of 12 classes; class 11 never occurs, class 10 is only ever predicted."""
    rng = np.random.default_rng(7)
    gold = rng.integers(0, 10, size=1000)
    return gold, np.where(rng.random(1000) < 0.7, gold, rng.integers(0, 11, size=1000))


def test_f1_of_a_hand_worked_case():
    f1_0, f1_1, f1_2 = 4 / 5, 2 / 4, 2 / 3
    scores = f1_scores(GOLD, PREDICTED)
    assert scores.macro == pytest.approx((f1_0 + f1_1 + f1_2) / 3)
    assert scores.micro == pytest.approx(4 / 6)
    assert scores.weighted == pytest.approx((3 * f1_0 + 2 * f1_1 + 1 * f1_2) / 6)
    assert scores.rows == 6


def test_f1_agrees_with_sklearn(labels):
    gold, predicted = labels
    scores = f1_scores(gold, predicted)
    for average in ("macro", "micro", "weighted"):
        assert getattr(scores, average) == pytest.approx(f1_score(gold, predicted, average=average))


def test_a_class_that_is_only_predicted_counts_zero_in_macro():
    assert f1_scores(np.array([0, 0]), np.array([0, 5])).macro == pytest.approx((2 / 3 + 0) / 2)


def test_an_unscored_product_is_wrong_but_no_class_of_its_own():
    gold, predicted = np.array([0, 0, 1]), np.array([0, UNSCORED, 1])
    assert f1_scores(gold, predicted) == pytest.approx(((2 / 3 + 1) / 2, 2 / 3, (2 * 2 / 3 + 1) / 3, 3))


def test_a_model_that_scores_nothing_gets_zero():
    nothing = np.full(6, UNSCORED)
    assert f1_scores(GOLD, nothing) == (0, 0, 0, 6)
    assert per_class(GOLD, nothing, 3).f1.tolist() == [0, 0, 0]
    assert not confusion(GOLD, nothing, 3).any()


def test_per_class_of_a_hand_worked_case():
    scores = per_class(GOLD, PREDICTED, 4)
    np.testing.assert_allclose(scores.precision, [1, 1 / 2, 1 / 2, np.nan])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(scores.f1, [4 / 5, 1 / 2, 2 / 3, np.nan])
    assert scores.support.tolist() == [3, 2, 1, 0]


def test_per_class_agrees_with_sklearn_and_with_macro(labels):
    gold, predicted = labels
    scores = per_class(gold, predicted, 12)
    expected = precision_recall_fscore_support(gold, predicted, labels=range(10))
    np.testing.assert_allclose([column[:10] for column in scores], expected)
    assert scores.f1[10] == 0
    assert np.isnan(scores.f1[11])
    assert np.nanmean(scores.f1) == pytest.approx(f1_scores(gold, predicted).macro)


def test_confusion_counts_gold_in_rows_and_predicted_in_columns():
    assert confusion(GOLD, PREDICTED, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_confusion_agrees_with_sklearn_and_leaves_out_the_unscored(labels):
    gold, predicted = labels
    predicted = np.where(np.arange(1000) % 10 == 0, UNSCORED, predicted)
    matrix = confusion(gold, predicted, 12)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, confusion_matrix(gold, predicted, labels=range(12)))
    assert matrix.sum() == 900


def test_one_class():
    only = np.zeros(3, dtype=np.int64)
    assert f1_scores(only, only) == (1, 1, 1, 3)
    assert per_class(only, only, 1).f1.tolist() == [1]
    assert confusion(only, only, 1).tolist() == [[3]]


def test_narrow_integers_do_not_overflow():
    last = np.array([199], dtype=np.uint8)
    assert confusion(last, last.astype(np.int16), 200)[199, 199] == 1


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([0, -1, -1], [0, 0, 0], "2 of 3 gold labels are below 0"),
        ([0, 1], [0, -2], "predicted label -2: expected a class number, or -1"),
        ([0, 1], [0], r"gold \(2,\) and predicted \(1,\): expected two equal lengths"),
        ([], [], r"gold \(0,\)"),
        ([0, 3], [0, 1], "label 3 with 3 classes"),
        ([0, 1], [0, 3], "label 3 with 3 classes"),
    ],
)
def test_labels_that_are_not_allowed_are_refused(gold, predicted, message):
    vectors = np.array(gold, dtype=np.int64), np.array(predicted, dtype=np.int64)
    for score in (per_class, confusion):
        with pytest.raises(ValueError, match=message):
            score(*vectors, 3)


def test_f1_refuses_products_without_a_gold_label():
    with pytest.raises(ValueError, match="1 of 2 gold labels are below 0"):
        f1_scores(np.array([0, -1]), np.array([0, 0]))


def test_accuracy_of_each_level_counts_the_products_that_have_it():
    np.testing.assert_allclose(level_accuracies(GOLD_PATHS, PREDICTED_PATHS), [3 / 4, 2 / 4, 2 / 3, 0 / 2])
    shallow = level_accuracies(np.array([[0, -1]]), np.array([[0, 5]]))
    np.testing.assert_array_equal(shallow, [1, np.nan])


def test_kakao_score_of_a_hand_worked_case():
    expected = (1.0 * 3 / 4 + 1.2 * 2 / 4 + 1.3 * 2 / 3 + 1.4 * 0) / 4
    assert kakao_score(GOLD_PATHS, PREDICTED_PATHS) == pytest.approx(expected)
    assert kakao_score(GOLD_PATHS, GOLD_PATHS) == pytest.approx(1.225)
    assert np.isnan(kakao_score(GOLD_PATHS[1:3], PREDICTED_PATHS[1:3]))


def test_kakao_score_of_the_arenas_winner():
    """Its published accuracies are .923/.876/.866/.889, rounded, and its score 1.08592."""
    hits = np.arange(1000)[:, None] < np.array([923, 876, 866, 889])
    assert kakao_score(np.zeros((1000, 4), int), np.where(hits, 0, 1)) == pytest.approx(1.08592, abs=5e-4)


def test_kakao_score_wants_four_levels():
    with pytest.raises(ValueError, match=r"gold \(4, 3\): expected 4 levels"):
        kakao_score(GOLD_PATHS[:, :3], PREDICTED_PATHS[:, :3])


def test_hierarchical_scores_of_a_hand_worked_case():
    """Shared nodes 3 + 3 + 1 + 0, gold nodes 4 + 3 + 2 + 4, predicted nodes 4 + 4 + 4 + 0."""
    assert hierarchical_scores(GOLD_PATHS, PREDICTED_PATHS) == pytest.approx((7 / 12, 7 / 13, 14 / 25))
    assert hierarchical_scores(GOLD_PATHS, GOLD_PATHS) == (1, 1, 1)


def test_hierarchical_f1_is_the_harmonic_mean_and_with_one_level_micro_f1(labels):
    gold, predicted = labels
    flat = hierarchical_scores(gold[:, None], predicted[:, None])
    assert flat == pytest.approx((f1_scores(gold, predicted).micro,) * 3)
    precision, recall, f1 = hierarchical_scores(GOLD_PATHS, PREDICTED_PATHS)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_model_that_names_no_node_has_no_precision():
    assert hierarchical_scores(GOLD_PATHS, np.full((4, 4), -1)) == pytest.approx((np.nan, 0, 0), nan_ok=True)


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([[0, -1], [-1, -1]], [[0, 0], [0, 0]], "1 of 2 gold paths have no first level"),
        ([[0, -2]], [[0, 0]], "code -2: expected a node's code, or -1"),
        ([[0, 1]], [[0, -3]], "code -3"),
        ([[0, 1]], [[0]], r"gold \(1, 2\) and predicted \(1, 1\): expected two equal"),
        ([0, 1], [0, 1], r"gold \(2,\)"),
        (np.empty((0, 2), int), np.empty((0, 2), int), r"gold \(0, 2\)"),
    ],
)
def test_paths_that_are_not_allowed_are_refused(gold, predicted, message):
    for score in (level_accuracies, hierarchical_scores):
        with pytest.raises(ValueError, match=message):
            score(np.array(gold), np.array(predicted))

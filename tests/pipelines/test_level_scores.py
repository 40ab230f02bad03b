"""Scores by level: of predictions and labels whose paths differ in depth, and of products that a model cannot score."""

import numpy as np
import pytest

from mmbatch.pipelines.level_scores import level_rows

CLASSES = ("a > x", "a > y", "b", "b > x")


def test_a_row_tells_each_level_and_a_product_without_a_score_is_wrong() -> None:
    gold = np.array([0, 1, 2, 3])
    rows = level_rows(CLASSES, {"good": gold, "poor": np.array([0, 0, 3, -1])}, gold=gold)
    assert [row.model for row in rows] == ["good", "poor"]
    assert rows[0].accuracies == (1, 1)
    assert rows[0].hierarchical_f1 == 1
    assert rows[1].accuracies == (0.75, pytest.approx(1 / 3))  # three products have a second level
    assert rows[1].hierarchical_f1 == pytest.approx(2 * 4 / (6 + 7))
    assert rows[0].kakao is None


def test_the_order_of_the_classes_does_not_matter() -> None:
    gold = np.array([2, 2])
    (row,) = level_rows(CLASSES[::-1], {"m": np.array([2, 3])}, gold=gold)  # a > y; the second is said to be a > x
    assert row.accuracies == (1, 0.5)


def test_one_level_needs_no_table() -> None:
    assert level_rows(("a", "b"), {"m": np.array([0])}, gold=np.array([0])) == ()


def test_four_levels_have_the_arenas_score() -> None:
    gold = np.array([0])
    (row,) = level_rows(("a > b > c > d", "a > b > c > e"), {"m": gold}, gold=gold)
    assert row.kakao == pytest.approx(4.9 / 4)

"""Selection: the best on the given products, and whether the others are behind by more than chance."""

import numpy as np
import pytest

from mmbatch.fusion.selection import rank
from mmbatch.metrics import f1_scores

CLASSES = 5


def said(gold: np.ndarray, *, wrong: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(gold)) < wrong, rng.integers(0, CLASSES, len(gold)), gold)


@pytest.fixture
def gold() -> np.ndarray:
    return np.random.default_rng(0).integers(0, CLASSES, 400)


def test_the_best_comes_first_and_scores_are_those_of_the_metric(gold: np.ndarray) -> None:
    predicted = {"poor": said(gold, wrong=0.6, seed=1), "good": said(gold, wrong=0.1, seed=2)}
    best, other = rank(gold, predicted, classes=CLASSES, seed=0)
    assert (best.name, other.name) == ("good", "poor")
    for standing in (best, other):
        assert standing.macro_f1 == pytest.approx(f1_scores(gold, predicted[standing.name]).macro)
    assert (best.behind, best.low, best.high) == (0, 0, 0)
    assert 0 < other.low < other.behind < other.high
    assert other.describe().endswith("clearly)")
    assert best.describe() == f"good {best.macro_f1:.4f}"


def test_a_small_difference_on_few_products_is_noise(gold: np.ndarray) -> None:
    few = gold[:60]
    _, other = rank(few, {"a": said(few, wrong=0.2, seed=3), "b": said(few, wrong=0.2, seed=4)}, classes=5, seed=0)
    assert other.low <= 0 < other.high
    assert "within noise" in other.describe()


def test_the_interval_covers_the_difference_of_the_whole_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    everybody = rng.integers(0, CLASSES, 100_000)
    good, poor = said(everybody, wrong=0.2, seed=6), said(everybody, wrong=0.3, seed=7)
    truth = f1_scores(everybody, good).macro - f1_scores(everybody, poor).macro
    hits = 0
    for trial in range(20):
        part = np.random.default_rng(trial).choice(len(everybody), 200, replace=False)
        first, second = rank(everybody[part], {"good": good[part], "poor": poor[part]}, classes=CLASSES, seed=trial)
        sign = 1 if first.name == "good" else -1
        low, high = sorted((sign * second.low, sign * second.high))
        hits += low <= truth <= high
    assert 17 <= hits <= 20


def test_equal_seeds_give_equal_intervals_and_equal_scores_go_to_the_first_named(gold: np.ndarray) -> None:
    predicted = {"a": said(gold, wrong=0.3, seed=8), "b": said(gold, wrong=0.3, seed=9)}
    assert rank(gold, predicted, classes=5, seed=1) == rank(gold, predicted, classes=5, seed=1)
    same = {"second": gold, "first": gold}
    assert [standing.name for standing in rank(gold, same, classes=5, seed=0)] == ["second", "first"]
    assert rank(gold, same, classes=5, seed=0)[1].high == 0

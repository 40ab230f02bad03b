"""Macro-F1 of two sets of predictions on the same rows, and how far chance carries the difference."""

import numpy as np
import pandas as pd
import pytest

from mmbatch.golden import Difference, difference
from mmbatch.metrics import UNSCORED, f1_scores


def noisy(gold: np.ndarray, *, share: float, seed: int, classes: int = 5) -> np.ndarray:
    """The gold codes, but for a share of them that is drawn at random."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(gold)) < share, rng.integers(0, classes, len(gold)), gold)


@pytest.fixture
def gold() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, 400)


def test_macro_f1_is_that_of_all_other_tables_whatever_is_predicted_beside_gold(gold: np.ndarray) -> None:
    before, after = noisy(gold, share=0.3, seed=1), noisy(gold, share=0.2, seed=2, classes=8)
    after[:20] = UNSCORED
    found = difference(gold, before, after, seed=0)
    assert found.rows == 400
    assert found.before == pytest.approx(f1_scores(gold, before).macro)
    assert found.after == pytest.approx(f1_scores(gold, after).macro)
    assert set(after) - set(gold) > {UNSCORED}


def test_names_are_compared_as_codes_are(gold: np.ndarray) -> None:
    before, after = noisy(gold, share=0.3, seed=1), noisy(gold, share=0.2, seed=2, classes=8)
    after[:20] = UNSCORED
    names = np.array([*"abcdefgh", None], object)
    as_names = difference(names[gold], names[before].tolist(), pd.Series(names[after]), seed=0)
    assert as_names == difference(gold, before, after, seed=0)


def test_the_interval_is_that_of_rows_drawn_with_replacement(gold: np.ndarray) -> None:
    before, after = noisy(gold, share=0.3, seed=1), noisy(gold, share=0.2, seed=2, classes=8)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, len(gold), len(gold)) for _ in range(400)]
    gains = [f1_scores(gold[at], after[at]).macro - f1_scores(gold[at], before[at]).macro for at in drawn]
    found = difference(gold, before, after, seed=0)
    assert [found.low, found.high] == pytest.approx(np.quantile(gains, [0.025, 0.975]).tolist(), abs=0.01)


def test_equal_predictions_differ_by_nothing(gold: np.ndarray) -> None:
    said = noisy(gold, share=0.3, seed=1)
    found = difference(gold, said, said.copy(), seed=0)
    assert (found.low, found.high, found.better) == (0.0, 0.0, False)
    assert found.before == found.after


def test_what_is_clearly_better_is_and_what_is_clearly_worse_is_not(gold: np.ndarray) -> None:
    bad, good = noisy(gold, share=0.4, seed=1), noisy(gold, share=0.1, seed=2)
    assert difference(gold, bad, good, seed=0).better
    worse = difference(gold, good, bad, seed=0)
    assert not worse.better
    assert worse.high < 0


def test_of_equally_good_predictions_one_in_forty_is_better_by_chance() -> None:
    better = 0
    for draw in range(200):
        gold = np.random.default_rng([draw, 0]).integers(0, 5, 300)
        before, after = (noisy(gold, share=0.3, seed=1000 * side + draw) for side in (1, 2))
        better += difference(gold, before, after, seed=draw, resamples=300).better
    assert 1 <= better <= 11, "5 expected, with a standard deviation of 2.2"


def test_draws_are_seeded_and_do_not_depend_on_the_order_of_the_rows(gold: np.ndarray) -> None:
    before, after = noisy(gold, share=0.3, seed=1), noisy(gold, share=0.2, seed=2)
    found = difference(gold, before, after, seed=0)
    order = np.random.default_rng(3).permutation(len(gold))
    assert difference(gold[order], before[order], after[order], seed=0) == found
    assert difference(gold, before, after, seed=1).low != found.low


def test_draws_in_parts_are_all_of_them(gold: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = noisy(gold, share=0.3, seed=1), noisy(gold, share=0.2, seed=2)
    whole = difference(gold, before, after, seed=0, resamples=50)
    monkeypatch.setattr("mmbatch.golden.HELD_COUNTS", 7)
    assert difference(gold, before, after, seed=0, resamples=50) == whole


def test_a_hundred_thousand_rows_of_a_thousand_classes_are_compared() -> None:
    gold = np.random.default_rng(0).zipf(1.3, 100_000) % 1000
    before, after = (noisy(gold, share=share, seed=seed, classes=1000) for share, seed in ((0.2, 1), (0.19, 2)))
    found = difference(gold, before, after, seed=0)
    assert found.rows == 100_000
    assert found.low < found.after - found.before < found.high


def test_of_no_rows_nothing_is_better() -> None:
    assert difference([], [], [], seed=0) == Difference(rows=0, before=0.0, after=0.0, low=0.0, high=0.0)
    assert not difference([], [], [], seed=0).better


def test_what_was_found_is_one_line(gold: np.ndarray) -> None:
    found = Difference(rows=1204, before=0.93123, after=0.936, low=-0.0021, high=0.011)
    expected = "macro-F1 0.9312 before, 0.9360 after on 1,204 golden rows (95 % interval of the gain -0.0021 to 0.0110)"
    assert found.describe() == expected


@pytest.mark.parametrize(
    ("gold", "before", "after", "message"),
    [
        (["a"], ["a"], ["a", "b"], "gold 1, before 1, after 2: expected three equal lengths"),
        (["a", None], ["a", "a"], ["a", "a"], "1 of 2 gold labels are below 0"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(
    gold: list[str], before: list[str], after: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        difference(gold, before, after, seed=0)

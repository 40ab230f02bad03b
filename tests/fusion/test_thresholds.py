import numpy as np
import pytest
from scipy.stats import binomtest

from mmbatch.errors import InputError
from mmbatch.fusion.thresholds import (
    best_bound,
    check_numbers,
    fewest_rows,
    first_rows,
    fit_threshold,
    lower_bounds,
)

TARGET = 0.9


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences float32 `[N]`, and rights that occur a little less often than these say."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, rows).astype(np.float32)
    return confidence, rng.random(rows) < confidence - 0.05 * (1 - confidence)


def hand_worked(rights: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows in falling order of confidence, `+` right and `-` wrong."""
    return np.linspace(0.9, 0.1, len(rights)), np.array([mark == "+" for mark in rights])


def test_lower_bounds_of_hand_worked_counts():
    """Without a mistake, the precision p of which n right ones have a probability of 5 % is the n-th root of 0.05."""
    right, accepted = np.array([149, 148, 0, 1, 47]), np.array([149, 148, 10, 1, 50])
    bounds = lower_bounds(right, accepted, level=0.95)
    np.testing.assert_allclose(bounds[:4], [0.05 ** (1 / 149), 0.05 ** (1 / 148), 0, 0.05])
    assert bounds[0] > 0.98 > bounds[1]
    exact = binomtest(47, 50, alternative="greater").proportion_ci(0.95, method="exact")
    assert bounds[4] == pytest.approx(exact.low)


def test_the_fewest_rows_by_mistakes():
    """148 rows without a mistake do not bear 98 %; 1, 2 mistakes: the usual table of acceptance sampling."""
    assert [fewest_rows(1000, mistakes, target=0.98, level=0.95) for mistakes in (0, 1, 2)] == [149, 236, 313]
    assert fewest_rows(148, 0, target=0.98, level=0.95) is None


def test_searches_share_the_level_and_there_are_as_many_as_rows_bear():
    """183 rows without a mistake bear 98 % at 97.5 %: the 183rd power of 0.98 is below 0.025, the 182nd is not."""
    assert first_rows(148, target=0.98, level=0.95) == []
    assert first_rows(149, target=0.98, level=0.95) == [149]
    two = first_rows(9999, target=0.98, level=0.95)
    assert two == [fewest_rows(9999, mistakes, target=0.98, level=0.975) for mistakes in (0, 8)]
    assert 0.98 ** two[0] <= 0.025 < 0.98 ** (two[0] - 1)
    assert first_rows(two[1] - 1, target=0.98, level=0.95) == [149]
    assert first_rows(0, target=0.5, level=0.95) == []


def test_149_rows_that_are_all_right_bear_98_percent_and_148_do_not():
    for rows, confidence in ((149, 0.1), (148, None)):
        found = fit_threshold(*hand_worked("+" * rows), target=0.98)
        assert found.confidence == confidence
        assert (found.rows, found.accepted, found.right) == (rows, 149 if confidence else 0, 149 if confidence else 0)
    assert found.bound == found.coverage == 0
    assert np.isnan(found.precision)
    assert best_bound(*hand_worked("+" * 148)).bound == pytest.approx(0.05 ** (1 / 148))


def test_the_threshold_is_the_last_before_the_first_failure():
    """For 50 % and one search, five rows bear no mistake, eight one, 13 three and 16 four.

    The first mistake, in row 6, ends the search, though all 25 rows with their five would pass again.
    """
    confidence, right = hand_worked("+++++-+++++++--+-" + 7 * "+" + "-")
    assert first_rows(25, target=0.5, level=0.95) == [5]
    assert [fewest_rows(25, mistakes, target=0.5, level=0.95) for mistakes in (0, 1, 3, 4, 5)] == [5, 8, 13, 16, 18]
    found = fit_threshold(confidence, right, target=0.5)
    assert (found.accepted, found.confidence) == (5, confidence[4])
    assert (found.right, found.precision, found.coverage) == (5, 1.0, 5 / 25)
    exact = binomtest(5, 5, alternative="greater").proportion_ci(0.95, method="exact")
    assert found.bound == pytest.approx(exact.low)
    best = best_bound(confidence, right)
    assert best.coverage == 13 / 25
    assert best.bound == pytest.approx(binomtest(12, 13, alternative="greater").proportion_ci(0.95, method="exact").low)


def test_a_search_that_begins_later_bears_mistakes_among_the_surest_rows():
    assert fit_threshold(*hand_worked("-" + "+" * 999), target=0.95).accepted == 1000
    assert fit_threshold(*hand_worked("-" + "+" * 199), target=0.95).accepted == 0
    assert fit_threshold(*hand_worked("+" * 100 + "----" + "+" * 50), target=0.95).accepted == 101


def test_mistakes_among_the_surest_rows_that_no_search_bears_end_them_all():
    found = fit_threshold(*hand_worked("+++---" + "+" * 15), target=0.5)
    assert (found.confidence, found.accepted) == (None, 0)


def test_equal_confidences_are_accepted_together():
    confidence = np.repeat([0.9, 0.8, 0.7], 200)
    right = np.ones(600, bool)
    right[[205, 300, 399]] = False
    found = fit_threshold(confidence, right, target=0.98)
    assert (found.confidence, found.accepted) == (0.7, 600)
    right[[210, 211, 212, 213, 214]] = False
    shuffled = np.random.default_rng(0).permutation(600)
    found = fit_threshold(confidence[shuffled], right[shuffled], target=0.95)
    assert (found.confidence, found.accepted, found.right) == (0.7, 600, 592)
    assert fit_threshold(confidence, right, target=0.98).accepted == 200


def test_mistakes_that_come_last_among_equal_confidences_count():
    """320 right rows come first, and by themselves would do; but with them all others at 0.9 are accepted."""
    right = np.arange(400) < 320
    assert fit_threshold(np.full(400, 0.9), right, target=0.98).confidence is None
    assert best_bound(np.full(400, 0.9), right).coverage == 1


def test_all_thresholds_above_the_one_found_pass_by_brute_force():
    confidence, right = drawn(2000, seed=3)
    found = fit_threshold(confidence, right, target=TARGET)
    starts = first_rows(2000, target=TARGET, level=0.95)
    order, ends = np.argsort(-confidence), []
    for start in starts:
        counts = np.arange(start, 2001)
        bounds = lower_bounds(right[order].cumsum()[counts - 1], counts, level=1 - 0.05 / len(starts))
        ends.append(counts[0] + np.flatnonzero(bounds < TARGET)[0] - 1)
    assert found.accepted == max(ends) == (confidence >= found.confidence).sum()
    assert found.right == right[confidence >= found.confidence].sum()
    assert 0.2 < found.coverage < 0.5


def precision_above(threshold: float | None) -> float:
    """Precision of `drawn` products at or above a threshold t: the mean of c - 0.05 (1 - c) for c from t to 1."""
    return 1.0 if threshold is None else 1.05 * (1 + threshold) / 2 - 0.05


def test_precision_on_new_products_misses_the_target_in_five_percent_of_repetitions_at_most():
    """Of 200 repetitions 10 or fewer are expected, and 17 or more by chance in 2 % of cases."""
    found = [fit_threshold(*drawn(2000, seed), target=TARGET) for seed in range(200)]
    missed = sum(precision_above(threshold.confidence) < TARGET for threshold in found)
    assert missed <= 16
    assert np.median([threshold.coverage for threshold in found]) > 0.15


def test_where_confidence_says_nothing_the_search_finds_nothing_and_the_lowest_bound_that_passes_is_no_bound():
    """Precision is 89.9 % everywhere: whatever is accepted misses 90 %."""
    rng = np.random.default_rng(5)
    confidence = np.linspace(1, 0.5, 2000)
    rights = rng.random((200, 2000)) < 0.899
    found = [fit_threshold(confidence, right, target=TARGET) for right in rights]
    assert sum(threshold.confidence is not None for threshold in found) <= 16
    searched = [best_bound(confidence, right).bound >= TARGET for right in rights]
    assert sum(searched) > 40


@pytest.mark.parametrize("rows", [0, 5])
def test_too_few_rows_accept_nothing(rows):
    confidence = drawn(rows, seed=0)[0]
    found = fit_threshold(confidence, np.ones(rows, bool), target=TARGET)
    assert (found.confidence, found.rows, found.coverage) == (None, rows, 0)
    best = best_bound(confidence, np.ones(rows, bool))
    assert best == ((0, 0) if not rows else pytest.approx((0.05 ** (1 / 5), 1)))


@pytest.mark.parametrize("name", ["target", "level"])
@pytest.mark.parametrize("value", [0, 1, -0.5, 1.5, np.nan])
def test_shares_outside_of_zero_to_one_are_refused(name, value):
    with pytest.raises(InputError, match=f"^{name}: found {value}, expected a number between 0 and 1$"):
        fit_threshold(*drawn(10, 0), **({"target": 0.9} | {name: value}))
    with pytest.raises(InputError, match=f"^{name}: found"):
        check_numbers(**{name: value})


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        ([0.5], [True, False], r"found confidences \[1\] with bool \[2\], expected \[N\] with bool \[N\]"),
        ([[0.5]], [[True]], r"found confidences \[1, 1\] with bool \[1, 1\]"),
        ([0.5], [1], r"found confidences \[1\] with int64 \[1\]"),
        ([0.5, np.nan], [True, False], "found 1 confidences that are no number"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, right, message):
    for fit in (fit_threshold, best_bound):
        with pytest.raises(InputError, match=f"^threshold: {message}"):
            fit(np.array(confidence), np.array(right), **({"target": 0.9} if fit is fit_threshold else {}))

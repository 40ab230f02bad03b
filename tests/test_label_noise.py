"""Suspected labels: planted ones are found, nothing else much, whatever the parts are, and bad input is refused."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from cleanlab.count import num_label_issues
from cleanlab.rank import order_label_issues

from mmbatch.errors import InputError
from mmbatch.label_noise import Batches, find_suspects

CLASSES = 8
ROWS = 4_000


def noisy(*, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that say the true class with noise, given codes, and which of them are planted."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, ROWS)
    logits = rng.normal(0, 1, (ROWS, CLASSES))
    logits[np.arange(ROWS), true] += 5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    planted = rng.random(ROWS) < share
    given = np.where(planted, (true + rng.integers(1, CLASSES, ROWS)) % CLASSES, true)
    return probabilities.astype(np.float32), given, planted


def parts(probabilities: np.ndarray, codes: np.ndarray, size: int = ROWS) -> Batches:
    def start() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for at in range(0, len(codes), size):
            yield probabilities[at : at + size], codes[at : at + size]

    return start


def test_planted_labels_are_found_with_what_the_models_would_give() -> None:
    probabilities, given, planted = noisy(share=0.05)
    found = find_suspects(parts(probabilities, given), classes=CLASSES)
    assert planted[found.rows].mean() > 0.95, "precision"
    assert planted[found.rows].sum() / planted.sum() > 0.9, "recall"
    np.testing.assert_array_equal(found.suggested, probabilities[found.rows].argmax(axis=1))
    assert (found.suggested != given[found.rows]).all()


def test_quality_is_the_normalised_margin_and_the_worst_come_first() -> None:
    probabilities, given, _ = noisy(share=0.05)
    rows, quality, _ = find_suspects(parts(probabilities, given), classes=CLASSES)
    own = probabilities[rows, given[rows]]
    others = probabilities[rows].copy()
    others[np.arange(len(rows)), given[rows]] = -1
    np.testing.assert_allclose(quality, (own - others.max(axis=1) + 1) / 2, atol=1e-6)
    assert (np.diff(quality) >= 0).all()
    assert quality.min() >= 0
    assert quality.max() < 0.5


def test_clean_labels_are_left_alone() -> None:
    probabilities, given, _ = noisy(share=0.0)
    assert len(find_suspects(parts(probabilities, given), classes=CLASSES).rows) < 0.01 * ROWS


@pytest.mark.parametrize("size", [1, 7, 1_000, 10 * ROWS])
def test_the_parts_do_not_matter(size: int) -> None:
    probabilities, given, _ = noisy(share=0.05)
    probabilities, given = probabilities[:500], given[:500]
    whole = find_suspects(parts(probabilities, given), classes=CLASSES)
    cut = find_suspects(parts(probabilities, given, size), classes=CLASSES)
    for mine, expected in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_empty_parts_are_passed_over() -> None:
    probabilities, given, _ = noisy(share=0.05)

    def start() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return [(probabilities[:0], given[:0]), (probabilities, given), (probabilities[:0], given[:0])]

    whole = find_suspects(parts(probabilities, given), classes=CLASSES)
    np.testing.assert_array_equal(find_suspects(start, classes=CLASSES).rows, whole.rows)


def test_they_are_those_of_the_published_method_in_memory() -> None:
    probabilities, given, _ = noisy(share=0.05)
    count = num_label_issues(given, probabilities, estimation_method="off_diagonal_calibrated")
    order = order_label_issues(np.ones(ROWS, bool), given, probabilities, rank_by="normalized_margin")
    found = find_suspects(parts(probabilities, given, 333), classes=CLASSES).rows
    assert abs(len(found) - count) <= 1, "its count may be one off by rounding"
    np.testing.assert_array_equal(found, order[: len(found)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, _: p.__setitem__((3, 1), np.nan), "negative, infinite or NaN, expected all in 0..1"),
        (lambda p, _: p.__setitem__((3, 1), -0.1), "negative, infinite or NaN, expected all in 0..1"),
        (lambda p, _: p.__setitem__(slice(3, 4), p[3] * 1.01), "sum to 1.0100, expected 1"),
        (lambda p, _: p.__setitem__(slice(3, 4), 0), "sum to 0.0000, expected 1"),
        (lambda _, codes: codes.__setitem__(5, CLASSES), f"codes 0 to {CLASSES}, expected 0 to {CLASSES - 1}"),
        (lambda _, codes: codes.__setitem__(5, -1), f"codes -1 to {CLASSES - 1}, expected 0 to {CLASSES - 1}"),
    ],
)
def test_what_is_no_distribution_or_no_code_is_refused(spoil: object, message: str) -> None:
    probabilities, given, _ = noisy(share=0.0)
    spoil(probabilities, given)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        find_suspects(parts(probabilities, given, 1_000), classes=CLASSES)


def test_shapes_and_counts_that_cannot_be_are_refused() -> None:
    probabilities, given, _ = noisy(share=0.0)
    with pytest.raises(InputError, match=r"are \(4000, 8\), expected \(4000, 9\): 4000 products x 9 categories"):
        find_suspects(parts(probabilities, given), classes=9)
    with pytest.raises(InputError, match=r"are \(4000, 8\), expected \(3999, 8\)"):
        find_suspects(lambda: [(probabilities, given[1:])], classes=CLASSES)
    with pytest.raises(InputError, match="found 1 categories, expected at least 2"):
        find_suspects(parts(probabilities[:, :1], given), classes=1)
    with pytest.raises(InputError, match="found no labelled products"):
        find_suspects(list, classes=CLASSES)

import numpy as np
import pytest

from mmbatch.confidence_metrics import calibration_error, error_of, reliability, risk_coverage

CONFIDENCE = np.array([0.95, 0.85, 0.85, 0.5, 0.45, 0.1])
RIGHT = np.array([True, True, False, True, False, False])


def test_reliability_of_a_hand_worked_case():
    """Of five bins, 0.1 is in the first, 0.45 and 0.5 are in the third, the others in the last."""
    found = reliability(CONFIDENCE, RIGHT, bins=5)
    np.testing.assert_allclose(found.lowest, [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(found.highest, [0.2, 0.4, 0.6, 0.8, 1])
    assert found.products.tolist() == [1, 0, 2, 0, 3]
    np.testing.assert_allclose(found.confidence, [0.1, np.nan, 0.475, np.nan, 2.65 / 3])
    np.testing.assert_allclose(found.accuracy, [0, np.nan, 0.5, np.nan, 2 / 3])


def test_calibration_error_of_a_hand_worked_case():
    expected = 1 / 6 * 0.1 + 2 / 6 * 0.025 + 3 / 6 * (2.65 - 2) / 3
    assert calibration_error(CONFIDENCE, RIGHT, bins=5) == pytest.approx(expected)
    assert error_of(reliability(CONFIDENCE, RIGHT, bins=5)) == pytest.approx(expected)
    assert calibration_error(CONFIDENCE, RIGHT, bins=1) == pytest.approx(abs(3.7 - 3) / 6)


def test_a_bin_holds_its_upper_edge_and_the_first_holds_zero():
    edges = np.linspace(0, 1, 16)
    assert reliability(edges, edges > 0).products.tolist() == [2] + [1] * 14
    single = reliability(np.array([0.2, 1.0], np.float32), np.array([True, True]), bins=2)
    assert single.products.tolist() == [1, 1]


def test_calibrated_confidences_have_a_small_error_and_overconfident_ones_do_not():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 20_000)
    right = rng.random(20_000) < confidence
    assert calibration_error(confidence, right) < 0.015
    assert calibration_error(np.sqrt(confidence), right) > 0.1


def test_risk_and_coverage_of_a_hand_worked_case():
    """The two products at 0.85 are accepted together."""
    curve = risk_coverage(CONFIDENCE, RIGHT)
    np.testing.assert_allclose(curve.coverage, [1 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 3, 1 / 4, 2 / 5, 3 / 6])
    np.testing.assert_array_equal(curve.threshold, [0.95, 0.85, 0.5, 0.45, 0.1])


def test_risk_and_coverage_do_not_depend_on_the_order_of_the_products():
    rng = np.random.default_rng(1)
    confidence, right = rng.integers(0, 20, 500) / 20, rng.random(500) < 0.7
    order = rng.permutation(500)
    for one, other in zip(
        risk_coverage(confidence, right), risk_coverage(confidence[order], right[order]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    brute = [1 - right[confidence >= threshold].mean() for threshold in np.unique(confidence)[::-1]]
    np.testing.assert_allclose(risk_coverage(confidence, right).risk, brute)


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        ([], [], r"confidences \(0,\) and rights \(0,\): expected two equal lengths above 0"),
        ([0.5], [True, False], r"confidences \(1,\) and rights \(2,\)"),
        ([[0.5]], [[True]], r"confidences \(1, 1\)"),
        ([0.5, np.nan], [True, False], "1 of 2 confidences as nan: expected 0 to 1"),
        ([0.5, 1.5], [True, False], "1 of 2 confidences as 1.5: expected 0 to 1"),
        ([-0.5], [True], "confidences as -0.5"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, right, message):
    for score in (reliability, calibration_error, risk_coverage):
        with pytest.raises(ValueError, match=message):
            score(np.array(confidence), np.array(right, bool))


def test_labels_in_place_of_truths_and_no_bins_are_refused():
    with pytest.raises(ValueError, match="rights of type int64: expected bool"):
        risk_coverage(CONFIDENCE, np.array([0, 1, 2, 3, 4, 5]))
    with pytest.raises(ValueError, match="0 bins: expected at least 1"):
        reliability(CONFIDENCE, RIGHT, bins=0)

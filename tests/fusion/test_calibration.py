import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from mmbatch.confidence_metrics import calibration_error
from mmbatch.errors import InputError
from mmbatch.fusion import calibration as module
from mmbatch.fusion import taxonomy
from mmbatch.fusion.calibration import Calibration, fit_temperature, scaled


def overconfident(rows: int, *, temperature: float, classes: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities float32 `[N, C]` that are right once divided by `temperature`, and labels drawn from those."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, classes))
    below = softmax(logits, axis=1).cumsum(axis=1)
    labels = (rng.random((rows, 1)) > below[:, :-1]).sum(axis=1)
    return log_softmax(temperature * logits, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_of_synthetic_scores_is_recovered(temperature):
    assert fit_temperature(*overconfident(20_000, temperature=temperature)) == pytest.approx(temperature, rel=0.04)


def test_the_temperature_is_the_minimum_of_the_formula():
    log_probs, labels = overconfident(60, temperature=3)

    def objective(log_t: float) -> float:
        log_p = log_softmax(log_probs.astype(float) / np.exp(log_t), axis=1)
        return log_t**2 / 2 - log_p[np.arange(60), labels].sum()

    expected = np.exp(minimize_scalar(objective, bounds=(-4, 4), options={"xatol": 1e-9}).x)
    assert fit_temperature(log_probs, labels) == pytest.approx(expected, rel=1e-4)


def test_a_handful_of_rows_that_are_all_right_or_all_wrong_does_not_run_away():
    sure = np.log(np.array([[0.98, 0.01, 0.01]] * 3))
    assert 0.3 < fit_temperature(sure, np.array([0, 0, 0])) < 1
    assert 1 < fit_temperature(sure, np.array([1, 2, 1])) < 6


def test_rows_without_scores_are_left_out_and_without_rows_the_temperature_is_one():
    log_probs, labels = overconfident(500, temperature=2)
    with_gaps = np.insert(log_probs, [0, 250, 500], np.nan, axis=0)
    assert fit_temperature(with_gaps, np.insert(labels, [0, 250, 500], 0)) == fit_temperature(log_probs, labels)
    assert fit_temperature(np.full((3, 4), np.nan), np.zeros(3, int)) == 1
    assert fit_temperature(np.empty((0, 4)), np.empty(0, int)) == 1


def test_blocks_do_not_matter_and_hold_no_second_copy(monkeypatch):
    log_probs, labels = overconfident(1000, temperature=2)
    whole, shares = fit_temperature(log_probs, labels), scaled(log_probs, 2)
    seen = []
    losses = module._losses
    monkeypatch.setattr(module, "_losses", lambda block, *rest: seen.append(len(block)) or losses(block, *rest))
    monkeypatch.setattr(taxonomy, "BLOCK_VALUES", 12 * 64)
    assert fit_temperature(log_probs, labels) == pytest.approx(whole, rel=1e-6)
    assert max(seen) == 64
    np.testing.assert_array_equal(scaled(log_probs, 2), shares)


def test_a_probability_of_zero_stays_finite():
    log_probs = np.array([[0, -np.inf], [-0.1, -2.3]] * 20, np.float32)
    assert 1 < fit_temperature(log_probs, np.array([1, 0] * 20)) < np.inf
    np.testing.assert_allclose(scaled(log_probs, 1)[0], [1, 0], atol=1e-30)


def test_scaled_is_softmax_at_the_temperature():
    log_probs, _ = overconfident(50, temperature=2)
    found = scaled(log_probs, 1.7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(log_probs / 1.7, axis=1), rtol=1e-5)
    np.testing.assert_allclose(scaled(log_probs, 1), np.exp(log_probs), rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), log_probs.argmax(axis=1))
    log_probs[7] = np.nan
    assert np.isnan(scaled(log_probs, 1.7)).any(axis=1).nonzero()[0].tolist() == [7]
    assert scaled(np.empty((0, 3)), 2).shape == (0, 3)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(InputError, match=r"^temperature: found .*, expected a number above 0$"):
        scaled(np.zeros((1, 2)), temperature)


def test_calibration_of_every_model_and_of_what_they_are_joined_to():
    joined, labels = overconfident(4000, temperature=2)
    model = joined.copy()
    model[::3] = np.nan
    found = Calibration.fit(
        np.insert(joined, 0, np.nan, axis=0), {"minilm": model[[0, *range(4000)]]}, labels[[0, *range(4000)]]
    )
    assert found.rows == 4000
    assert found.joined == pytest.approx(2, rel=0.05)
    assert found.temperatures == {"minilm": pytest.approx(2, rel=0.07)}
    right = joined.argmax(axis=1) == labels
    assert found.error_before == pytest.approx(calibration_error(np.exp(joined).max(axis=1), right), abs=1e-6)
    assert found.error_after == pytest.approx(calibration_error(scaled(joined, found.joined).max(axis=1), right))
    assert found.error_after < 0.03 < 0.1 < found.error_before
    assert found.classes_without_rows == 0


def test_calibration_without_rows_leaves_everything_as_it_is():
    nothing = np.full((2, 5), np.nan)
    found = Calibration.fit(nothing, {"minilm": nothing}, np.zeros(2, int))
    assert (found.joined, found.temperatures, found.rows) == (1, {"minilm": 1}, 0)
    assert (found.error_before, found.error_after, found.classes_without_rows) == (None, None, 5)


def test_classes_that_no_calibration_row_has_are_counted():
    log_probs, labels = overconfident(300, temperature=1)
    assert Calibration.fit(log_probs, {}, labels % 9).classes_without_rows == 3


def test_json_round_trip():
    found = Calibration.fit(*overconfident(50, temperature=2)[:1], {}, overconfident(50, temperature=2)[1])
    assert Calibration.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"joined": 1}'])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(InputError, match=r"^calibration: found something else than its JSON: "):
        Calibration.from_json(text)


@pytest.mark.parametrize("change", [{"joined": 0}, {"joined": "1"}, {"temperatures": {"minilm": -1.0}}])
def test_json_with_another_temperature_is_refused(change):
    content = json.loads(Calibration.fit(np.zeros((0, 2)), {}, np.zeros(0, int)).to_json())
    with pytest.raises(InputError, match=r"^calibration: found temperatures .*, expected numbers above 0$"):
        Calibration.from_json(json.dumps(content | change))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, 3), [0, 3], "found labels 0 to 3, expected 0 to 2"),
        ((2, 3), [-1, 0], "found labels -1 to 0, expected 0 to 2"),
        ((2, 3), [0], r"found log-probabilities \[2, 3\] with labels \[1\], expected \[N, C\] with \[N\]"),
        ((2,), [0, 0], r"found log-probabilities \[2\]"),
        ((2, 0), [0, 0], r"found log-probabilities \[2, 0\]"),
    ],
)
def test_bad_shapes_and_labels_are_refused(shape, labels, message):
    with pytest.raises(InputError, match=f"^calibration: {message}"):
        fit_temperature(np.zeros(shape), np.array(labels))


def test_a_temperature_that_is_no_better_than_chance_is_not_kept():
    """Calibrated scores have a temperature near 1, whatever the rows; a few rows say nothing else."""
    rng = np.random.default_rng(4)
    log_probs = log_softmax(2 * rng.normal(size=(60, 5)), axis=1)
    labels = np.array([rng.choice(5, p=np.exp(row)) for row in log_probs])
    assert fit_temperature(log_probs, labels) == 1.0
    assert fit_temperature(log_probs[:1], labels[:1]) == 1.0
    assert fit_temperature(3 * log_probs, labels) > 1.5

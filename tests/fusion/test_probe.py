import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from mmbatch.fusion.probe import INVERSE_STRENGTH, fit_probe, unit


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, size=300)
    return (rng.normal(size=(3, 8))[codes] + rng.normal(size=(300, 8))).astype(np.float16), codes


def test_the_probe_is_scikit_learns_logistic_regression(rows: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, codes = rows
    weight, bias = fit_probe(lambda: [(vectors, codes)], width=8, classes=3)
    reference = LogisticRegression(C=INVERSE_STRENGTH, max_iter=1000, tol=1e-8)
    expected = reference.fit(normalize(vectors.astype(np.float32)), codes).decision_function(unit(vectors))
    found = unit(vectors) @ weight.T + bias
    np.testing.assert_allclose(
        found - found.mean(axis=1, keepdims=True), expected - expected.mean(axis=1, keepdims=True), atol=0.02
    )


def test_parts_and_their_order_do_not_matter(rows: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, codes = rows
    whole = fit_probe(lambda: [(vectors, codes)], width=8, classes=3)
    parts = [(vectors[200:], codes[200:]), (vectors[:200], codes[:200])]
    for one, other in zip(whole, fit_probe(lambda: parts, width=8, classes=3), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)


def test_a_class_without_rows_and_a_zero_vector_are_no_trouble(rows: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, codes = rows
    vectors[0] = 0
    weight, bias = fit_probe(lambda: [(vectors, codes)], width=8, classes=4)
    scores = unit(vectors) @ weight.T + bias
    assert np.isfinite(scores).all()
    assert (scores.argmax(axis=1) != 3).all()

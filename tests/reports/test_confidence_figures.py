import io
import warnings

import numpy as np
import pytest
from PIL import Image

from mmbatch.confidence_metrics import Reliability, RiskCoverage, reliability, risk_coverage
from mmbatch.reports.confidence_figures import reliability_png, risk_coverage_png


def drawn(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences that are too high, calibrated ones, and whether the predictions are right."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.2, 1, rows)
    return confidence**0.4, confidence, rng.random(rows) < confidence


@pytest.fixture(scope="module")
def bins() -> tuple[Reliability, Reliability]:
    before, after, right = drawn(2000)
    return reliability(before, right), reliability(after, right)


@pytest.fixture(scope="module")
def curve() -> RiskCoverage:
    return risk_coverage(*drawn(2000)[1:])


def pixels(png: bytes) -> np.ndarray:
    """RGB `[H, W, 3]` of a decoded PNG."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share_of(png: bytes, colour: tuple[int, int, int]) -> float:
    """Share of the pixels that have a colour, in percent."""
    return 100 * (pixels(png) == colour).all(axis=2).mean()


def ink_at_the_edge(png: bytes) -> bool:
    picture = pixels(png)
    return bool((np.concatenate([picture[:8].ravel(), picture[-8:].ravel(), picture[:, :8].ravel()]) != 255).any())


def test_the_reliability_diagram_shows_both(bins):
    figure = reliability_png(*bins)
    assert pixels(figure).shape[0] > 900
    assert pixels(figure).shape[1] > 900
    assert share_of(figure, (0x2F, 0x6F, 0xD0)) > 0.3
    assert share_of(figure, (0x98, 0xA2, 0xB3)) > 0.3
    assert not ink_at_the_edge(figure)


def test_the_reliability_diagram_changes_with_its_figures(bins):
    before, after = bins
    assert reliability_png(before, after) == reliability_png(before, after)
    pictures = {reliability_png(before, after), reliability_png(after, before), reliability_png(after, after)}
    assert len(pictures) == 3
    more = after._replace(products=after.products * 2)
    assert reliability_png(before, more) != reliability_png(before, after)


def test_the_curve_shows_target_and_what_was_accepted(curve):
    bare = risk_coverage_png(curve, target=None, accepted_coverage=0, accepted_risk=0)
    target = risk_coverage_png(curve, target=0.8, accepted_coverage=0, accepted_risk=0)
    both = risk_coverage_png(curve, target=0.8, accepted_coverage=0.4, accepted_risk=0.15)
    ink = (0x1D, 0x23, 0x30)
    assert share_of(bare, ink) < share_of(target, ink) < share_of(both, ink)
    assert both != risk_coverage_png(curve, target=0.8, accepted_coverage=0.5, accepted_risk=0.15)
    assert not ink_at_the_edge(both)


@pytest.mark.parametrize("right", [True, False])
def test_one_product_and_products_that_are_all_alike_are_drawn(right):
    for rows in (1, 300):
        confidence, rights = np.full(rows, 0.9), np.full(rows, right)
        found = reliability(confidence, rights)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert pixels(reliability_png(found, found)).size
            curve = risk_coverage(confidence, rights)
            assert pixels(risk_coverage_png(curve, target=0.98, accepted_coverage=float(right), accepted_risk=0.0)).size


def test_a_mistake_among_the_very_surest_does_not_set_the_scale():
    """The surest product is wrong, so that the curve begins at 100 %; on that scale the target would be at the foot."""
    confidence, right = np.linspace(1, 0.5, 1000), np.arange(1000) > 0
    curve = risk_coverage(confidence, right)
    assert curve.risk[0] == 1
    figure = pixels(risk_coverage_png(curve, target=0.98, accepted_coverage=0, accepted_risk=0))
    dark = (figure == (0x1D, 0x23, 0x30)).all(axis=2)
    line = int(dark[150:].sum(axis=1).argmax()) + 150  # below the title
    assert 0.4 < line / len(figure) < 0.75

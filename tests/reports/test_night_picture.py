import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmbatch.reports.night_picture import HEIGHT, MARGIN, WIDTH, night_png, shortened


def drawn(**changed: Any) -> np.ndarray:
    told: dict[str, Any] = {
        "state": ("Refused", "✕", "bad"),
        "headline": "changed 23.12 % > 10 %",
        "note": "2026-01-31 · s3://lake/mmbatch",
        "numbers": [("10,000,000", "published"), ("1,234,567", "changed, 12.35 %"), ("0", "for review"), ("9", "more")],
        "reasons": {"title edited": 70, "image edited": 3},
        "rules": ["changed 23.12 % > 10 %"],
        "gate": "Gate: 1 breached, 9 passed",
    }
    with Image.open(io.BytesIO(night_png(**{**told, **changed}))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"headline": "a headline of very many words " * 20},
        {"note": "2026-01-31 · " + "s3://lake/" * 30},
        {"rules": [f"rule {n} " + "of a category with a very long name " * 4 for n in range(9)]},
        {"reasons": {f"a reason with a rather long name {n}": 10 - n for n in range(9)}},
        {"reasons": {}, "rules": [], "numbers": []},
    ],
)
def test_nothing_runs_over_the_edges(changed: dict[str, Any]) -> None:
    pixels = drawn(**changed)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    below = pixels[20:]
    for edge in (below[:, : MARGIN - 8], below[:, 8 - MARGIN :], below[-20:]):
        assert (edge == 255).all()


def test_the_state_has_its_colour() -> None:
    assert tuple(drawn()[4, 600]) == (0xC2, 0x41, 0x0C)
    assert tuple(drawn(state=("Published", "✓", "good"))[4, 600]) == (0x18, 0x79, 0x4E)


def test_bars_are_drawn_by_products() -> None:
    blue = (drawn() == (0x2F, 0x6F, 0xD0)).all(axis=2).sum(axis=1)
    lengths = [int(length) for length in np.unique(blue) if length > 2]
    assert max(lengths) == pytest.approx(230, abs=3)
    assert min(lengths) == pytest.approx(230 * 3 / 70, abs=3)


def test_text_is_formula_free_and_shortened() -> None:
    assert not (drawn(headline="cheap $x^2$ goods") == drawn(headline="cheap x2 goods")).all()
    assert shortened("a  b\nc", 9) == "a b c"
    assert shortened("abcdefgh", 5) == "abcd…"

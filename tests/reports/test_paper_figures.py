import io

import numpy as np
import pytest
from PIL import Image

from mmbatch.reports.paper_analysis import ModelModality, ModelPredictions
from mmbatch.reports.paper_figures import contributions_png

MODALITIES: tuple[ModelModality, ...] = ("text", "image", "fused")


def predictions(contributions: np.ndarray, *, modalities: tuple[ModelModality, ...] = MODALITIES) -> ModelPredictions:
    rows, models = contributions.shape
    return ModelPredictions(
        models=tuple(f"model {index}" for index in range(models)),
        modalities=tuple(modalities[index % len(modalities)] for index in range(models)),
        categories=("x",),
        gold=np.zeros(rows, int),
        fused=np.zeros(rows, int),
        codes=np.zeros((rows, models), int),
        contributions=contributions,
    )


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def inked(png: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    """Where in the figure the pixels are nearly of a colour, `[height, width]`."""
    return np.abs(pixels(png).astype(int) - colour).max(axis=2) < 12


TEXT, IMAGE = (162, 190, 234), (238, 191, 145)
"""Colours of the two modalities at their opacity, on white."""


def test_twelve_models_of_ten_thousand_products_are_readable():
    rng = np.random.default_rng(0)
    found = pixels(contributions_png(predictions(rng.normal(1, np.linspace(0.1, 2, 12), (10_000, 12)))))
    assert 900 < found.shape[0] < 1_400
    assert 1_200 < found.shape[1] < 1_700
    assert all(part.std() > 5 for part in np.array_split(found, 12))


def test_the_largest_contribution_is_on_top_and_in_the_colour_of_its_modality():
    small, large = np.linspace(-0.5, 0.5, 99), np.linspace(2, 4, 99)
    png = contributions_png(predictions(np.stack([small, large], axis=1)))
    text, image = (np.nonzero(inked(png, colour)[: -len(pixels(png)) // 3]) for colour in (TEXT, IMAGE))
    assert image[0].mean() < text[0].mean()
    assert image[1].min() > text[1].max()


def test_a_few_products_far_out_do_not_set_the_scale():
    values = np.linspace(-1, 1, 1_000)[:, None]
    far = values.copy()
    far[0] = -1_000
    near, outlying = (inked(contributions_png(predictions(column)), TEXT).sum() for column in (values, far))
    assert outlying == pytest.approx(near, rel=0.02)


@pytest.mark.parametrize(
    "contributions",
    [
        np.zeros((1, 1)),
        np.full((5, 2), 0.7, np.float32),
        np.array([[np.nan, 1.0], [2.0, np.nan]]),
        np.array([[1e-12], [-1e-12]]),
        np.array([[1e9, 1e-3], [-1e9, 2e-3]]),
    ],
    ids=["one zero", "all the same", "some missing", "tiny", "huge beside small"],
)
def test_degenerate_contributions_are_drawn(contributions):
    assert pixels(contributions_png(predictions(contributions))).std() > 5


def test_a_name_is_text_and_cut_where_it_is_long():
    long = ModelPredictions(
        **{**vars(predictions(np.ones((3, 1)))), "models": ("$\\frac$ 한국어 " + "très long " * 40,)}
    )
    assert pixels(contributions_png(long)).shape[1] < 2_000

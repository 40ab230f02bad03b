"""A close look at products of a made shop."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmbatch.catalog import Catalog
from mmbatch.examine import GRID, JOINED, Examined, examine, product_of, region_gains, word_gains
from mmbatch.online import OnlinePredictor
from mmbatch.workspace import Workspace
from tests.published_shop import PRODUCTS, publish_shop, vectors
from tests.test_online import load, published


def shop(folder: Path, **arguments: Any) -> tuple[Workspace, OnlinePredictor]:
    workspace = publish_shop(folder, **arguments)
    return workspace, load(workspace)


def probability(online: OnlinePredictor, product: dict[str, Any], category: str) -> float:
    [row] = online.predict([product]).predictions.to_pylist()
    return dict(zip(row["top_categories"], row["top_probabilities"], strict=True))[category]


def log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))


@pytest.mark.parametrize("products", [PRODUCTS, vectors()], ids=["photos", "vectors"])
def test_a_product_of_the_catalog_is_examined_as_it_was_published(
    products: dict[str, Any], tmp_path: Path, in_process: None
) -> None:
    workspace, online = shop(tmp_path, products=products)
    catalog = Catalog(workspace=workspace).pinned()
    for name, batch in published(workspace).items():
        product = product_of(catalog, name)
        assert product is not None
        found = examine(online, product)
        assert found.row is not None
        assert found.row["category"] == batch["category"]
        said = {of.model: of for of in found.said}
        assert said[JOINED].top[0] == (batch["category"], pytest.approx(batch["confidence"], abs=1e-5))
        best = {model: of.top[0] for model, of in said.items() if of.top and model != JOINED}
        assert {model: name for model, (name, _) in best.items()} == dict(batch["model_categories"])
        assert found.path == [(batch["category"], pytest.approx(batch["confidence"], abs=1e-5))]
    assert product_of(catalog, "nothing") is None


def test_a_model_without_its_modality_says_nothing(tmp_path: Path, in_process: None) -> None:
    _, online = shop(tmp_path)
    found = examine(online, {"title": "oak bench"})
    assert {of.reads: bool(of.top) for of in found.said[1:]} == {"image": False, "text": True}


def test_what_cannot_be_used_is_told(tmp_path: Path, in_process: None) -> None:
    _, online = shop(tmp_path)
    found = examine(online, PRODUCTS["PDF"])
    assert [(row["modality"], row["reason"]) for row in found.rejects] == [("image", "image_unknown_format")]
    assert found.row is not None
    assert region_gains(online, found) is None
    nothing = examine(online, {"title": " "})
    assert (nothing.row, nothing.said) == (None, [])


@pytest.mark.parametrize("sequences", [False, True], ids=["vectors are joined", "sequences are joined"])
def test_a_word_is_worth_what_the_log_odds_fall_without_it(sequences: bool, tmp_path: Path, in_process: None) -> None:
    _, online = shop(tmp_path, sequences=sequences)
    product = {"title": "steel lamp", "description": "for desks", "image": PRODUCTS["both"]["image"]}
    found = examine(online, product)
    gains = word_gains(online, found)
    assert [word for word, _ in gains] == ["steel", "lamp", "for", "desks"]
    assert found.row is not None
    category = found.row["category"]
    whole = log_odds(probability(online, product, category))
    for gain, less in zip(
        gains,
        ({"title": "lamp"}, {"title": "steel"}, {"description": "desks"}, {"description": "for"}),
        strict=True,
    ):
        without = log_odds(probability(online, product | less, category))
        assert gain[1] == pytest.approx(whole - without, abs=1e-3), gain[0]


def test_a_single_word_beside_nothing_is_not_left_out(tmp_path: Path, in_process: None) -> None:
    _, online = shop(tmp_path)
    assert word_gains(online, examine(online, {"title": "lamp"})) == []


def test_regions_of_a_photo_are_worth_something_and_those_of_a_plain_one_nothing(
    tmp_path: Path, in_process: None
) -> None:
    _, online = shop(tmp_path)
    gains = region_gains(online, examine(online, {"image": PRODUCTS["both"]["image"]}))
    assert gains is not None
    assert gains.shape == (GRID, GRID)
    assert np.abs(gains).max() > 0
    file = io.BytesIO()
    Image.new("RGB", (90, 60), (40, 80, 120)).save(file, "PNG")
    plain = region_gains(online, examine(online, {"image": file.getvalue()}))
    assert plain is not None
    assert np.abs(plain).max() < 1e-4


def test_vectors_have_no_regions(tmp_path: Path, in_process: None) -> None:
    workspace, online = shop(tmp_path, products=vectors())
    product = product_of(Catalog(workspace=workspace).pinned(), "both")
    assert product is not None
    found: Examined = examine(online, product)
    assert region_gains(online, found) is None

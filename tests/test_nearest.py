import numpy as np
import pytest

from mmbatch import nearest as module
from mmbatch.browse import Browser
from mmbatch.nearest import nearest
from mmbatch.workspace import Workspace
from tests.stored_features import WIDTHS, encoders, write_workspace

TEXT = np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float16)
"""What the text vectors of every `a` are, but for noise."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_workspace(tmp_path_factory.mktemp("near") / "w", products=60, without_vectors=(2, 11))


def test_the_nearest_are_those_of_the_largest_cosine(workspace: Workspace) -> None:
    browser, models = Browser.open(workspace), {model.card["modality"]: model for model in encoders(workspace)}
    found = nearest(browser, models, {"text": TEXT}, limit=60)
    assert found.compared == 60
    assert found.similarities == sorted(found.similarities, reverse=True)
    assert found.similarities[0] > 0.8
    without = dict(zip(found.product_ids, found.similarities, strict=True))
    assert without["p00002"] == without["p00011"] == 0
    assert len(without) == 60


def test_encoders_count_alike_and_a_product_without_an_image_has_half(workspace: Workspace) -> None:
    browser, models = Browser.open(workspace), {model.card["modality"]: model for model in encoders(workspace)}
    image = np.array([1, 0, 0], np.float16)
    both = nearest(browser, models, {"image": image, "text": TEXT}, limit=60)
    alone = {
        name: nearest(browser, models, {name: query}, limit=60) for name, query in (("image", image), ("text", TEXT))
    }
    scores = {name: dict(zip(found.product_ids, found.similarities, strict=True)) for name, found in alone.items()}
    for product, similarity in zip(both.product_ids, both.similarities, strict=True):
        assert similarity == pytest.approx((scores["image"][product] + scores["text"][product]) / len(WIDTHS), abs=1e-5)
    assert scores["image"]["p00003"] == 0


def test_so_many_are_compared_and_no_more(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    models = {model.card["modality"]: model for model in encoders(workspace)}
    assert nearest(Browser.open(workspace), models, {"text": TEXT}).compared == 30


def test_without_a_vector_nothing_is_near(workspace: Workspace) -> None:
    assert nearest(Browser.open(workspace), {}, {}).product_ids == []

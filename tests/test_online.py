"""A product that is predicted online has the row that the batch jobs publish, column by column."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.image_access import ImageAccess
from mmbatch.models import published_predictor
from mmbatch.online import PRODUCTS as COLUMNS
from mmbatch.online import OnlinePredictor
from mmbatch.predictions import Predictions
from mmbatch.quarantine import quarantine_table
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace
from tests.image_server import BODY, serving
from tests.published_shop import PDF, PRODUCTS, photo, publish_shop, rows_of, vectors

SCORES = ("top_probabilities", "model_probabilities", "modality_text", "modality_image", "modality_fused")

MAPS = ("model_categories", "model_probabilities")


def load(workspace: Workspace, **arguments: Any) -> OnlinePredictor:
    model = published_predictor(workspace)
    assert model is not None
    return OnlinePredictor.load(workspace, model, history=TaxonomyHistory.read(workspace), threads=1, **arguments)


def published(workspace: Workspace) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in Predictions(workspace=workspace).table.read().to_pylist()}


def assert_same(online: dict[str, Any], batch: dict[str, Any]) -> None:
    """All columns but `run_id`; what is not explained in the batch is online."""
    online, batch = ({**row, **{name: dict(row[name]) for name in MAPS}} for row in (online, batch))
    for name in set(schema.PREDICTIONS.names) - {"run_id", "confidence", *SCORES}:
        assert online[name] == batch[name], name
    assert online["confidence"] == pytest.approx(batch["confidence"], abs=1e-5)
    for name in SCORES:
        if batch[name] is not None:
            assert online[name] == pytest.approx(batch[name], abs=1e-4), name


@pytest.mark.parametrize("sequences", [False, True], ids=["without a head", "a head over sequences"])
@pytest.mark.parametrize("products", [PRODUCTS, vectors()], ids=["photos", "vectors"])
def test_the_row_is_the_published_one(
    products: dict[str, dict[str, Any]], sequences: bool, tmp_path: Path, in_process: None
) -> None:
    workspace = publish_shop(tmp_path, products, sequences=sequences)
    batch, online = published(workspace), load(workspace)
    together = online.predict(rows_of(products))
    assert together.predictions.schema == schema.PREDICTIONS
    assert together.predictions["product_id"].to_pylist() == list(products)
    for row in together.predictions.to_pylist():
        assert_same(row, batch[row["product_id"]])
        (alone,) = online.predict(
            [{"product_id": row["product_id"], **products[row["product_id"]]}]
        ).predictions.to_pylist()
        assert_same(alone, batch[row["product_id"]])
    assert {
        row["product_id"]: row["quarantined"] for row in together.predictions.to_pylist() if row["quarantined"]
    } == {
        "cut image": ["image"],
        "PDF": ["image"],
    }


def test_what_cannot_be_used_has_the_reason_that_it_has_in_quarantine(shop: Workspace) -> None:
    columns = ["product_id", "modality", "reason", "message"]
    kept = quarantine_table(shop).read(columns).sort_by("product_id").to_pylist()
    found = load(shop).predict(rows_of(PRODUCTS)).rejects.select(columns).sort_by("product_id").to_pylist()
    assert found == kept
    assert [row["reason"] for row in found] == ["image_unknown_format", "image_truncated"]


def test_a_product_with_nothing_to_predict_from_has_no_row(shop: Workspace) -> None:
    answers = load(shop).predict([{"title": " ", "image": PDF}, {"title": "lamp"}, {}])
    assert answers.predictions["product_id"].to_pylist() == ["1"]
    assert answers.positions.tolist() == [1]
    rejects = answers.rejects.to_pylist()
    assert [(row["position"], row["modality"], row["reason"]) for row in rejects] == [
        (0, None, "no_content"),
        (2, None, "no_content"),
    ]
    assert "image_unknown_format" in rejects[0]["message"]
    assert not len(answers.of(0).predictions)
    assert answers.of(1).predictions.equals(answers.predictions)


def test_a_text_that_no_encoder_takes_is_no_content_of_the_product(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = load(shop)
    text = online.encoders["ngram-text"]
    monkeypatch.setattr(
        text,
        "prepare",
        lambda batch: (
            type(text)
            .prepare(text, batch.slice(0, 0))
            ._replace(failures=[(row, "no_text", "nothing") for row in range(len(batch))])
        ),
    )
    answers = online.predict([{"title": "lamp"}, {"title": "lamp", "image": photo(0)}])
    assert answers.positions.tolist() == [1]
    assert answers.predictions["quarantined"].to_pylist() == [["text"]]
    assert answers.predictions["text_hash"].to_pylist() == [None]
    assert [(row["position"], row["modality"], row["reason"]) for row in answers.rejects.to_pylist()] == [
        (0, "text", "no_text"),
        (1, "text", "no_text"),
    ]


def test_an_image_is_fetched_from_where_it_may_be_read_alone(shop: Workspace, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo(0))
    with serving() as server:
        online = load(shop, access=ImageAccess.of([f"{server.site}/good"]))
        wanted = [
            f"{server.site}/good/a.jpg",
            "https://elsewhere.example/a.jpg",
            "http://169.254.169.254/latest/meta-data",
            str(tmp_path / "photo.jpg"),
            "etc/passwd",
        ]
        answers = online.predict([{"title": "lamp", "image_uri": uri} for uri in wanted])
    assert [row["reason"] for row in answers.rejects.to_pylist()] == ["image_forbidden"] * 4
    assert answers.predictions["quarantined"].to_pylist() == [[], *[["image"]] * 4]
    (fetched,) = answers.of(0).predictions.to_pylist()
    (given,) = online.predict([{"product_id": "0", "title": "lamp", "image": BODY}]).predictions.to_pylist()
    assert_same(fetched, given)


def test_two_products_of_one_id_are_two(shop: Workspace) -> None:
    products = [
        {"product_id": "a", "title": "lamp", "image": PDF},
        {"product_id": "a", "title": "lamp", "image": photo(0)},
    ]
    assert load(shop).predict(products).predictions["quarantined"].to_pylist() == [["image"], []]


def test_products_may_be_an_arrow_table_and_none_are_none(shop: Workspace) -> None:
    online = load(shop)
    table = pa.Table.from_pylist(rows_of(PRODUCTS), schema=COLUMNS)
    assert online.predict(table).predictions.equals(online.predict(rows_of(PRODUCTS)).predictions)
    assert online.predict([]).predictions.equals(schema.PREDICTIONS.empty_table())


@pytest.mark.parametrize(
    ("product", "message"),
    [
        ({"titel": "lamp"}, "products: found titel, expected some of product_id, title, description, image"),
        ({"title": 5}, "products: not of the types .*title.*string"),
        ({"title": "\ud800"}, "products: not of the types"),
        ({"image_vector": [1.0]}, "products: found image_vector, expected image or image_uri: what this predictor"),
    ],
)
def test_what_is_no_product_is_refused(shop: Workspace, product: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(shop).predict([product])


def test_a_predictor_of_vectors_takes_no_photos(tmp_path: Path, in_process: None) -> None:
    online = load(publish_shop(tmp_path, vectors()))
    with pytest.raises(InputError, match="products: found image_uri, expected image_vector"):
        online.predict([{"image_uri": "https://shop.example/a.jpg"}])

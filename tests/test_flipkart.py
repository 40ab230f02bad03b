"""The Flipkart sample from its CSV file and a web server to the table of its three models, by one command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmbatch.catalog import Catalog
from mmbatch.models import list_models
from mmbatch.predictions import Predictions
from mmbatch.quarantine import quarantine_table
from mmbatch.workspace import Workspace
from tests.conftest import run_job
from tests.image_server import Server, serving
from tests.preset_sources import CLASSES, PER_CLASS, Product, small_catalog, write_flipkart
from tests.preset_twins import write_weights

BROKEN = {"missing": "image_missing", "cut": "image_truncated", "private": "image_forbidden"}
"""What is wrong with an image -> its reason in quarantine."""

MODELS = ("bilstm", "mobilenet", "fusion-head")
"""Text alone, image alone, both concatenated."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Product]:
    return small_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory, server: Server, products: list[Product]) -> tuple[object, ...]:
    """Of the pipeline: photos that come slowly, two together, and broken ones among them."""
    root = tmp_path_factory.mktemp("flipkart")
    write_weights(root / "weights", [f"{product.title} {product.description or ''}" for product in products])
    server.photos = {f"{product.number}.jpeg": product.image for product in products} | {
        "cut.jpeg": products[0].image[:200]
    }
    server.together = 2
    addresses = ("status/404", "photo/cut.jpeg", "redirect/private", "together/1", "together/2", "busy/0")
    elsewhere = {product.number: f"{server.site}/{at}" for product, at in zip(products[::4], addresses, strict=False)}
    source = write_flipkart(root / "source", products, f"{server.site}/photo", elsewhere=elsewhere)
    places = ("--source", source, "--images-from", server.site, "--weights", root / "weights")
    return ("--workspace", root / "w", "--preset", "flipkart", *places, "--top-classes", CLASSES)


@pytest.fixture(scope="module")
def stages(flags: tuple[object, ...]) -> dict[str, Any]:
    done = run_job("pipeline", *flags, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def workspace(flags: tuple[object, ...], stages: dict[str, Any]) -> Workspace:
    return Workspace.open(str(flags[1]))


@pytest.mark.slow
def test_a_product_without_a_usable_image_stays_with_its_text(workspace: Workspace, products: list[Product]) -> None:
    rows = quarantine_table(workspace).read(["reason", "product_id"]).to_pylist()
    assert sorted(row["reason"] for row in rows) == sorted(BROKEN.values())
    keys = Catalog(workspace=workspace).keys()
    assert (keys.num_rows, keys["image_hash"].null_count, keys["text_hash"].null_count) == (len(products), 3, 0)
    predicted = Predictions(workspace=workspace).table.read(["product_id"])["product_id"].to_pylist()
    assert set(predicted) == {f"u{product.number}" for product in products}


@pytest.mark.slow
def test_products_of_rare_classes_are_predicted_and_not_learned(workspace: Workspace, products: list[Product]) -> None:
    labels = Catalog(workspace=workspace).labels()["category"].to_pylist()
    assert sorted(labels) == sorted(product.path[0] for product in products if product.code <= CLASSES)
    said = set(Predictions(workspace=workspace).table.read(["category"])["category"].to_pylist())
    assert said <= set(labels)


@pytest.mark.slow
def test_the_three_models_are_scored_on_one_split(stages: dict[str, Any]) -> None:
    counts = stages["evaluate"]["counts"]
    table = {(row["model"], row["split"]): row for row in counts["table"]}
    for split in ("train", "fusion", "test"):
        rows = [table[model, split] for model in MODELS]
        assert all(0 <= row["micro"] <= 1 for row in rows)
        assert len({row["rows"] for row in rows}) == 1
    assert sum(table["bilstm", split]["rows"] for split in ("train", "fusion", "test")) <= CLASSES * PER_CLASS
    lines = [line for line in counts["text"].splitlines() if "micro" in line or set(line.split()) & set(MODELS)]
    assert lines[0].split()[2:] == ["macro", "micro", "weighted"] * 3
    assert {name for line in lines for name in line.split()} >= set(MODELS)


@pytest.mark.slow
def test_the_words_are_kept_with_the_model(workspace: Workspace) -> None:
    (model,) = [model for model in list_models(workspace, "encoder") if model.name == "bilstm"]
    assert (Path(model.uri) / "vocabulary.txt").read_text().splitlines()


@pytest.mark.slow
def test_the_same_command_downloads_and_trains_nothing_again(
    flags: tuple[object, ...], stages: dict[str, Any], server: Server
) -> None:
    asked = len(server.asked)
    done = run_job("pipeline", *flags, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictor"] == stages["predictor"]
    assert len(server.asked) == asked

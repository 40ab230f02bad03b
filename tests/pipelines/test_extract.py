"""Extraction computes what is stale, once, and accounts for every product, whatever dies on the way."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from mmbatch.catalog import Catalog, digest
from mmbatch.encoders import Encoder
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.failpoints import VARIABLE
from mmbatch.models import Model, publish_model
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.extract import extract, stale_counts, store_of
from mmbatch.pipelines.ingest import ingest
from mmbatch.quarantine import quarantine_table
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

PRODUCTS = 40
COLUMNS = Columns(id="id", title="title", image="image")


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    settings = Settings(preset="sample", level=1, seed=0, buckets=4)
    return Workspace.create(str(tmp_path / "w"), settings)


def photo(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def products() -> list[dict[str, Any]]:
    """Every tenth has no image, and the last two share title and image with the first."""
    rows = [
        {"id": f"p{i:03d}", "title": f"title {i}", "image": photo(i) if i % 10 else None} for i in range(PRODUCTS - 2)
    ]
    return [*rows, *({"id": f"twin{i}", "title": "title 1", "image": photo(1)} for i in range(2))]


def store_products(workspace: Workspace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    file = Path(workspace.uri).parent / "source.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return ingest(workspace, source=str(file), columns=COLUMNS)


def publish(workspace: Workspace, encoder: Encoder, name: str, folder: Path) -> Model:
    folder.mkdir(parents=True)
    encoder.eval().save(folder)
    card: dict[str, Any] = {"modality": encoder.modality, "width": encoder.width, "metrics": {}}
    files = [path.name for path in folder.iterdir()]
    return publish_model(workspace, kind="encoder", name=name, folder=folder, identity=files, recipe=name, card=card)


@pytest.fixture
def models(workspace: Workspace, tmp_path: Path) -> list[Model]:
    return [
        publish(workspace, NgramText.from_scratch(buckets=256, width=8, seed=0), "text", tmp_path / "text"),
        publish(workspace, TimmImage.from_scratch("test_resnet", size=32, seed=0), "image", tmp_path / "image"),
    ]


def counts(ledger: dict[str, Any], name: str) -> dict[str, Any]:
    return next(count for model, count in ledger["counts"]["encoders"].items() if model.startswith(f"{name}@"))


def keys(workspace: Workspace, model: Model) -> list[tuple[str, str]]:
    rows = store_of(workspace, model).table.read(["product_id", "content_hash"])
    return sorted(zip(rows["product_id"].to_pylist(), rows["content_hash"].to_pylist(), strict=True))


def wanted(workspace: Workspace, column: str) -> list[tuple[str, str]]:
    rows = Catalog(workspace=workspace).keys().to_pylist()
    return sorted((row["product_id"], row[column]) for row in rows if row[column])


def test_every_product_has_its_vector_once_and_equal_content_is_encoded_once(
    workspace: Workspace, models: list[Model]
) -> None:
    store_products(workspace, products())
    ledger = extract(workspace, models)
    assert keys(workspace, models[0]) == wanted(workspace, "text_hash")
    assert keys(workspace, models[1]) == wanted(workspace, "image_hash")
    assert {name: counts(ledger, "text")[name] for name in ("computed", "reused", "unchanged")} == {
        "computed": PRODUCTS - 2,
        "reused": 2,
        "unchanged": 0,
    }
    assert counts(ledger, "image")["computed"] == PRODUCTS - 2 - 4
    speed = ledger["counts"]["speed"]
    assert speed["encode_s"] > 0
    assert speed["bound_by"] in ("encode", "prepare", "read")
    store = store_of(workspace, models[0])
    vectors, present = store.read(pa.array([digest(b"title 1\x1f\x00"), "none"]), buckets=range(4))
    assert present.tolist()[1] is False
    assert np.isfinite(vectors).all()


def test_an_edited_title_encodes_that_text_and_no_image_and_nothing_changed_writes_nothing(
    workspace: Workspace, models: list[Model]
) -> None:
    rows = products()
    store_products(workspace, rows)
    extract(workspace, models)
    edited = [row | {"title": "a new title"} if row["id"] in ("p003", "p004", "p005") else row for row in rows]
    store_products(workspace, edited)
    assert stale_counts(Catalog(workspace=workspace).pinned(), models)[models[1].id] == {"compute": 0, "reuse": 0}
    ledger = extract(workspace, models)
    assert (counts(ledger, "text")["computed"], counts(ledger, "text")["reused"]) == (1, 2)
    assert counts(ledger, "image")["unchanged"] == counts(ledger, "image")["products"]
    versions = [store_of(workspace, model).table.version() for model in models]
    again = extract(workspace, models)
    assert (again["counts"]["computed"], again["counts"]["unchanged"]) == (0, 2 * PRODUCTS - 4)
    assert [store_of(workspace, model).table.version() for model in models] == versions


def test_a_product_that_moves_to_another_id_takes_its_vectors_along(workspace: Workspace, models: list[Model]) -> None:
    rows = products()[:10]
    store_products(workspace, rows)
    extract(workspace, models)
    store_products(workspace, [row | {"id": f"moved {row['id']}"} for row in rows])
    ledger = extract(workspace, models)
    assert (ledger["counts"]["computed"], ledger["counts"]["reused"]) == (0, 19)
    assert keys(workspace, models[1]) == wanted(workspace, "image_hash")


@pytest.mark.slow
def test_a_new_encoder_encodes_everything_and_leaves_the_others_alone(
    workspace: Workspace, models: list[Model], tmp_path: Path
) -> None:
    store_products(workspace, products()[:10])
    extract(workspace, models)
    new = publish(workspace, NgramText.from_scratch(buckets=256, width=16, seed=1), "new", tmp_path / "new")
    ledger = extract(workspace, [*models, new])
    assert counts(ledger, "new")["computed"] == 10
    assert counts(ledger, "text")["unchanged"] == 10


@pytest.mark.slow
def test_of_labelled_products_alone_a_new_encoder_encodes_as_much_and_leaves_the_quarantine_as_it_is(
    workspace: Workspace, models: list[Model], tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(photo(99))
    rows = [row | {"label": "ab"[number % 2] if number % 3 else None} for number, row in enumerate(products())]
    rows += [{"id": f"twin of p000 {n}", "title": "title 0", "image": None, "label": "a"} for n in range(20)]
    rows.append({"id": "gone", "title": "title", "image": str(tmp_path / "photo.png"), "label": None})
    images = [row["image"] if isinstance(row["image"], str) else None for row in rows]
    texts = pa.Table.from_pylist([row | {"image": image} for row, image in zip(rows, images, strict=True)])
    pq.write_table(texts, tmp_path / "labelled.parquet")
    columns = Columns(id="id", title="title", image="image", label=("label",))
    ingest(workspace, source=str(tmp_path / "labelled.parquet"), columns=columns)
    (tmp_path / "photo.png").unlink()
    extract(workspace, models)
    held = quarantine_table(workspace).read().to_pylist()
    assert [entry["reason"] for entry in held] == ["image_missing"]
    new = publish(workspace, NgramText.from_scratch(buckets=256, width=16, seed=1), "new", tmp_path / "new")
    ledger = extract(workspace, [new, models[1]], labelled_only=True)
    whole = {row["id"] for row in rows if row["label"]} | {
        "p000",
        "twin1",
    }  # who share bucket and title with one that has a label
    done = counts(ledger, "new")
    assert (done["products"], done["computed"] + done["reused"]) == (len(whole), len(whole))
    assert {product for product, _ in keys(workspace, new)} == whole
    assert quarantine_table(workspace).read().to_pylist() == held
    again = extract(workspace, [new, models[1]], labelled_only=True)
    assert counts(again, "new")["unchanged"] == len(whole)
    assert quarantine_table(workspace).read().to_pylist() == held
    rest = counts(extract(workspace, [new]), "new")
    assert (rest["unchanged"], rest["computed"] + rest["reused"]) == (len(whole), len(rows) - len(whole))


@pytest.mark.slow
def test_an_image_that_went_missing_is_quarantined_for_every_product_that_shows_it_until_it_is_back(
    workspace: Workspace, models: list[Model], tmp_path: Path
) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(photo(0))
    store_products(workspace, [{"id": f"p{i}", "title": f"t{i}", "image": str(file)} for i in range(3)])
    file.rename(tmp_path / "away.png")
    ledger = extract(workspace, models)
    assert counts(ledger, "image") | {"reasons": {}} == {
        "products": 3, "unchanged": 0, "computed": 0, "reused": 0, "quarantined": 3, "reasons": {},
    }  # fmt: skip
    entries = quarantine_table(workspace).read()
    assert sorted(entries["product_id"].to_pylist()) == ["p0", "p1", "p2"]
    assert set(entries["reason"].to_pylist()) == {"image_missing"}
    version = quarantine_table(workspace).version()
    extract(workspace, models)
    assert quarantine_table(workspace).version() == version
    (tmp_path / "away.png").rename(file)
    assert counts(extract(workspace, models), "image")["computed"] == 1
    assert quarantine_table(workspace).rows() == 0
    assert keys(workspace, models[1]) == wanted(workspace, "image_hash")


@pytest.mark.slow
def test_an_image_that_kills_its_process_at_ingest_is_quarantined_and_its_product_is_stored(
    workspace: Workspace, tmp_path: Path
) -> None:
    store_products(workspace, products()[:1])  # the settings; the rest comes from a process of its own
    pq.write_table(pa.Table.from_pylist(products()), tmp_path / "all.parquet")
    flags = ("--workspace", workspace.uri, "--source", tmp_path / "all.parquet", "--columns", "id=id", "title=title")
    done = run_job("ingest", *flags, "image=image", "--json", **{VARIABLE: f"check:{digest(photo(7))}"})
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)["counts"]
    assert (counted["rows"], counted["rejected"], counted["part_reasons"]) == (PRODUCTS, 0, {"kills_process": 1})
    (product,) = (row for row in Catalog(workspace=workspace).keys().to_pylist() if row["product_id"] == "p007")
    assert (product["image_hash"], product["text_hash"] is None) == (None, False)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare", "encode"])
def test_a_record_that_kills_its_process_is_found_and_the_run_finishes(
    workspace: Workspace, models: list[Model], stage: str
) -> None:
    rows = products()
    store_products(workspace, rows)
    deadly = digest(photo(7))
    flags = ("--workspace", workspace.uri, "--json")
    done = run_job("extract_features", *flags, **{VARIABLE: f"{stage}:{deadly}"})
    assert done.returncode == 0, done.stderr
    ledger = json.loads(done.stdout)
    assert counts(ledger, "image")["reasons"] == {"kills_process": 1}
    (entry,) = quarantine_table(workspace).read().to_pylist()
    assert (entry["product_id"], entry["reason"], entry["modality"]) == ("p007", "kills_process", "image")
    assert "signal 9" in entry["message"]
    assert [key for key in wanted(workspace, "image_hash") if key[1] != deadly] == keys(workspace, models[1])
    again = extract(workspace, models)
    assert counts(again, "image")["computed"] == 1
    assert quarantine_table(workspace).rows() == 0

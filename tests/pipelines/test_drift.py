"""Training reference and drift of a workspace's catalog, out of few buckets."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch.catalog import Catalog
from mmbatch.drift import Reference
from mmbatch.errors import InputError
from mmbatch.models import CARD, Model, publish_model
from mmbatch.pipelines import drift
from mmbatch.pipelines.drift import REFERENCE, catalog_drift, reference_of
from mmbatch.tables import FileEntry
from mmbatch.workspace import Workspace
from tests.stored_features import BUCKETS, encoders, write_workspace

PRODUCTS = 1600
TRAIN = 1280


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Products without texts; their encoders have cards and nothing else."""
    made = write_workspace(tmp_path / "w", products=PRODUCTS)
    for model in encoders(made):
        folder = Path(model.uri)
        folder.mkdir(parents=True)
        (folder / CARD).write_text(json.dumps({"id": model.id, "sha256": {}, **model.card}))
    return made


def predictor(workspace: Workspace, folder: Path, *, content: str | None) -> Model:
    folder.mkdir()
    (folder / "predictor.json").write_text("{}")
    if content is not None:
        (folder / REFERENCE).write_text(content)
    card = {"encoders": [model.id for model in encoders(workspace)]}
    identity = ["predictor.json"]
    return publish_model(
        workspace, kind="predictor", name="p", folder=folder, identity=identity, recipe=str(content), card=card
    )


def rewrite(workspace: Workspace, buckets: Sequence[int], **columns: object) -> None:
    """Set columns of all products of some buckets to one value each."""
    table = Catalog(workspace=workspace).table
    added: list[FileEntry] = []
    for bucket in buckets:
        rows = table.read(buckets=[bucket])
        for name, value in columns.items():
            field = rows.schema.field(name)
            rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array([value] * len(rows), field.type))
        added.append(table.write_file(rows, bucket=bucket))
    table.replace(added, table.files(buckets), app_id=f"{buckets} {columns}", read_version=table.version())


def test_the_reference_is_of_labelled_train_products_and_their_vectors(workspace: Workspace) -> None:
    found = reference_of(workspace, encoders(workspace))
    assert found.rows == TRAIN
    assert found.numbers == {}, "no product has a text"
    assert found.names["missing title"].counts == (TRAIN, 0)
    assert dict(zip(found.names["missing image"].names, found.names["missing image"].counts, strict=False)) == {
        "present": sum(number % 10 not in (0, 5) and number % 7 != 3 for number in range(PRODUCTS)),
        "missing": sum(number % 10 not in (0, 5) and number % 7 == 3 for number in range(PRODUCTS)),
    }
    assert sum(found.vectors["vectors of text"].along[0].counts) == TRAIN // 2
    assert sum(found.vectors["vectors of image"].along[0].counts) < TRAIN // 2
    rewrite(workspace, [0], label=None)
    assert reference_of(workspace, encoders(workspace)).rows == pytest.approx(TRAIN * 3 / 4, abs=50)


def test_as_few_buckets_are_read_as_hold_the_sample(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "SAMPLE", 500)
    before = reference_of(workspace, encoders(workspace))
    assert before.rows == 500
    for folder in [*Path(workspace.uri).rglob("bucket=2"), *Path(workspace.uri).rglob("bucket=3")]:
        shutil.rmtree(folder)
    assert reference_of(workspace, encoders(workspace)) == before
    rewrite(workspace, [0], title="a title")
    assert reference_of(workspace, encoders(workspace)) != before


def test_of_a_bucket_too_large_a_random_part_is_taken_and_always_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "SAMPLE", 250)
    found = drift._sample(Catalog(workspace=workspace), encoders(workspace))
    again = drift._sample(Catalog(workspace=workspace), encoders(workspace))
    assert found.rows == 250
    assert (found.images == again.images).all()
    ids = Catalog(workspace=workspace).table.read(["product_id"], buckets=[0])
    chosen = drift._first(ids, 250)["product_id"].to_pylist()
    assert len(set(chosen)) == 250
    half = sum(name in chosen for name in ids["product_id"].to_pylist()[:200])
    assert 100 < half < 150, "not the first ones of the file"


def test_drift_is_of_the_present_catalog(workspace: Workspace, tmp_path: Path) -> None:
    content = reference_of(workspace, encoders(workspace)).to_json()
    model = predictor(workspace, tmp_path / "p", content=content)
    found, rows = catalog_drift(workspace, model)
    assert rows == PRODUCTS
    assert found is not None
    assert found.keys() == {
        "missing title",
        "missing description",
        "missing image",
        "vectors of image",
        "vectors of text",
    }
    assert max(found.values()) < 0.05
    rewrite(workspace, range(BUCKETS), title="a title", image_hash=None, label=None)
    moved, _ = catalog_drift(workspace, model)
    assert moved is not None
    assert {name for name, index in moved.items() if index > 0.25} == {"missing title", "missing image"}
    assert "vectors of image" not in moved, "no product has one any more"


def test_without_a_reference_drift_is_not_measured(workspace: Workspace, tmp_path: Path) -> None:
    assert catalog_drift(workspace, predictor(workspace, tmp_path / "p", content=None)) == (None, 0)


def test_a_reference_is_no_part_of_the_identity(workspace: Workspace, tmp_path: Path) -> None:
    without = predictor(workspace, tmp_path / "p", content=None)
    content = Reference(rows=0, numbers={}, names={}, vectors={}).to_json()
    assert predictor(workspace, tmp_path / "q", content=content).id == without.id


def test_a_broken_or_lost_reference_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    model = predictor(workspace, tmp_path / "p", content="{")
    where = rf"^{model.uri}/reference\.json: "
    with pytest.raises(InputError, match=where + "training reference: found something else than its JSON"):
        catalog_drift(workspace, model)
    (Path(model.uri) / REFERENCE).write_bytes(b"\xff")
    with pytest.raises(InputError, match=where):
        catalog_drift(workspace, model)
    (Path(model.uri) / REFERENCE).unlink()
    with pytest.raises(InputError, match=where):
        catalog_drift(workspace, model)

"""What features are computed from: contents that can be used, alone or together."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.catalog import Catalog, digest
from mmbatch.contents import OfLabelled, OfModality, PossiblyTogether, Together, joint_hashes
from mmbatch.feature_store import FeatureStore
from mmbatch.schema import Modality
from mmbatch.tables import Snapshot
from mmbatch.workspace import Settings, Workspace

TEXT, IMAGE, OTHER = (digest(name.encode()) for name in ("text", "image", "other"))
LABELS = {"no image": ["a"], "broken": ["b", "c"], "nothing": ["a"]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))
    hashes = {"whole": (TEXT, IMAGE), "no image": (TEXT, None), "broken": (TEXT, OTHER), "nothing": (None, None)}
    rows = [
        {"product_id": name, "text_hash": text, "image_hash": image, "label": LABELS.get(name), "bucket": 0}
        for name, (text, image) in hashes.items()
    ]
    table = Catalog(workspace=workspace).table
    table.commit(table.write_buckets(pa.Table.from_pylist(rows, schema=schema.CATALOG)), app_id="made")
    return workspace


def stored(workspace: Workspace, modality: Modality, *hashes: str) -> Snapshot:
    store = FeatureStore(workspace=workspace, encoder=f"{modality}@1", modality=modality, width=1)
    vectors = np.zeros((len(hashes), 1), np.float16)
    entry = store.write(pa.array([f"p{n}" for n in range(len(hashes))]), pa.array(hashes), vectors, bucket=0)
    store.table.commit([entry], app_id="made")
    return store.table.snapshot()


def pairs(rows: pa.Table) -> list[tuple[str, str]]:
    return list(zip(rows["product_id"].to_pylist(), rows["content_hash"].to_pylist(), strict=True))


def joint(text: str | None, image: str | None) -> str | None:
    found: str | None = joint_hashes(pa.array([text], pa.string()), pa.array([image], pa.string()))[0].as_py()
    return found


def test_either_content_changes_the_hash_of_both_and_nothing_has_none() -> None:
    found = [joint(*pair) for pair in ((TEXT, IMAGE), (OTHER, IMAGE), (TEXT, OTHER), (TEXT, None), (None, TEXT))]
    assert len(set(found)) == 5
    assert all(len(bytes.fromhex(hash_ or "")) == 16 for hash_ in found)
    assert joint(None, None) is None
    assert joint(TEXT, IMAGE) == "8837517fdd04d1ccae13c8a7fa1f1a8c", "stored embeddings lie under it"


def test_products_without_the_modality_have_no_content_of_it(workspace: Workspace) -> None:
    catalog = Catalog(workspace=workspace).table.snapshot()
    assert pairs(OfModality(catalog, "image").read(0)) == [("broken", OTHER), ("whole", IMAGE)]


def test_contents_of_labelled_products_are_those_of_everyone_who_has_them(workspace: Workspace) -> None:
    catalog = Catalog(workspace=workspace).table.snapshot()
    assert pairs(OfLabelled(Catalog(workspace=workspace), OfModality(catalog, "image")).read(0)) == [("broken", OTHER)]
    held: dict[Modality, tuple[Snapshot, ...]] = {"text": (stored(workspace, "text", TEXT),)}
    found = pairs(OfLabelled(Catalog(workspace=workspace), Together(catalog, held)).read(0))
    assert found == [(name, joint(TEXT, None)) for name in ("broken", "no image", "whole")]
    held["image"] = (stored(workspace, "image", IMAGE),)
    found = pairs(OfLabelled(Catalog(workspace=workspace), Together(catalog, held)).read(0))
    assert found == [("broken", joint(TEXT, None)), ("no image", joint(TEXT, None))]


def test_a_content_that_no_encoder_holds_is_none(workspace: Workspace) -> None:
    catalog = Catalog(workspace=workspace).table.snapshot()
    held: dict[Modality, tuple[Snapshot, ...]] = {
        "text": (stored(workspace, "text", TEXT),),
        "image": (stored(workspace, "image", IMAGE),),
    }
    contents = Together(catalog, held)
    assert pairs(contents.read(0)) == [
        ("broken", joint(TEXT, None)),
        ("no image", joint(TEXT, None)),
        ("whole", joint(TEXT, IMAGE)),
    ]
    assert contents.parts(0)["image_hash"].to_pylist() == [None, None, IMAGE]
    assert pairs(Together(catalog, {}).read(0)) == []


def test_whatever_may_be_held_is_possible(workspace: Workspace) -> None:
    found = pairs(PossiblyTogether(Catalog(workspace=workspace).table.snapshot()).read(0))
    of_whole = {content for product, content in found if product == "whole"}
    assert of_whole == {joint(TEXT, IMAGE), joint(TEXT, None), joint(None, IMAGE)}
    assert {product for product, _ in found} == {"whole", "no image", "broken"}

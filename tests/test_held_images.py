from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.catalog import Catalog, digest, merge, stage
from mmbatch.held_images import HeldImages
from mmbatch.workspace import Settings, Workspace

BUCKETS = 2


def store(catalog: Catalog, rows: list[dict[str, object]], *, images: bool = True) -> None:
    """Rows of the catalog, and their images' bytes."""
    nothing = dict.fromkeys(schema.SOURCE.names) | {"deleted": False, "title": "t"}
    full = [nothing | row | {"position": place} for place, row in enumerate(rows)]
    staged = stage(pa.Table.from_pylist(full, schema=schema.SOURCE), source="f", unit=0, buckets=BUCKETS)
    merged = merge(schema.CATALOG.empty_table(), staged).rows
    catalog.table.commit(catalog.table.write_buckets(merged), app_id="rows")
    if images:
        found = staged.filter(pa.compute.is_valid(staged["image"])).select(schema.IMAGES.names)
        catalog.images.commit(catalog.images.write_buckets(found), app_id="images")


def web(number: int) -> dict[str, object]:
    return {"product_id": f"p{number}", "image": b"%d" % number, "image_uri": f"https://h/{number}.jpg"}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    settings = Settings(preset="sample", level=1, seed=0, buckets=BUCKETS)
    return Catalog(workspace=Workspace.create(str(tmp_path / "w"), settings))


def test_each_image_is_found_by_its_product_and_address_only(catalog: Catalog) -> None:
    count = 2_000
    store(catalog, [web(number) for number in range(count)])
    held = HeldImages.of(catalog)
    assert held.records.nbytes == 32 * count
    ids, uris = [f"p{i}" for i in range(count)], [f"https://h/{i}.jpg" for i in range(count)]
    assert held.find(ids, uris) == [digest(b"%d" % number) for number in range(count)]
    assert held.find(ids, uris[1:] + uris[:1]) == [None] * count  # another product has that one
    assert held.find(["p0", "q", "p1"], ["https://h/0.jpg?v=2", "https://h/1.jpg", "https://h/1.jpg"]) == [
        None,
        None,
        digest(b"1"),
    ]
    assert held.find([], []) == []


def test_only_web_images_that_are_stored_count(catalog: Catalog) -> None:
    other = [
        {"product_id": "inside", "image": b"i"},
        {"product_id": "path", "image": b"i", "image_uri": "/b/https://i.jpg"},
        {"product_id": "none"},
        {"product_id": "loud", "image": b"i", "image_uri": "HTTP://h/i.jpg"},
    ]
    store(catalog, other)
    held = HeldImages.of(catalog)
    uris = ["", "/b/https://i.jpg", "", "HTTP://h/i.jpg"]
    assert held.find([str(row["product_id"]) for row in other], uris) == [None, None, None, digest(b"i")]


def test_an_image_that_is_gone_is_not_held(catalog: Catalog) -> None:
    store(catalog, [web(1)], images=False)
    assert HeldImages.of(catalog).find(["p1"], ["https://h/1.jpg"]) == [None]


def test_a_new_workspace_holds_none(catalog: Catalog) -> None:
    held = HeldImages.of(catalog)
    assert (len(held.records), held.find(["p"], ["https://h/1.jpg"])) == (0, [None])

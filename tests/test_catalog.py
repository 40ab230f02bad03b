from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.catalog import Catalog, category_of, digest, merge, stage
from mmbatch.workspace import Settings, Workspace

EMPTY = schema.CATALOG.empty_table()


def source(*rows: dict, unit: int = 0) -> pa.Table:
    nothing = dict.fromkeys(schema.SOURCE.names) | {"deleted": False}
    full = [nothing | row | {"position": i} for i, row in enumerate(rows)]
    return stage(pa.Table.from_pylist(full, schema=schema.SOURCE), source="file", unit=unit, buckets=1)


def product(product_id: str, title: str | None = "t", **more: object) -> dict:
    return {"product_id": product_id, "title": title, **more}


def test_hashes_are_per_modality_and_null_where_it_is_missing() -> None:
    rows = source(product("a", "x"), product("b", None, image=b"i"), product("c", "x", description="y"))
    assert rows["text_hash"].null_count == 1
    assert rows["image_hash"].to_pylist() == [None, digest(b"i"), None]
    texts = rows["text_hash"].to_pylist()
    assert texts[0] != texts[2]
    assert source(product("z", "x"))["text_hash"].to_pylist() == texts[:1]


def test_title_and_description_do_not_run_into_each_other() -> None:
    rows = source(product("a", "xy", description="z"), product("b", "x", description="yz"), product("c", "xyz"))
    assert len(set(rows["text_hash"].to_pylist())) == 3


def test_bytes_behind_a_uri_are_hashed_but_not_staged() -> None:
    places = ["s3://b/i.jpg", "/b/https://i.jpg", None, "HTTPS://h/i.jpg", "http://127.0.0.1:1/i.jpg"]
    rows = source(*[product(str(number), image=b"i", image_uri=uri) for number, uri in enumerate(places)])
    assert rows["image"].to_pylist() == [None, None, b"i", b"i", b"i"]  # what came from the web is stored
    assert rows["image_hash"].to_pylist() == [digest(b"i")] * 5
    assert rows["image_uri"].to_pylist() == places


def test_the_first_row_of_an_id_counts_whatever_the_order_of_arrival() -> None:
    late, early = source(product("a", "second"), unit=1), source(product("a", "first"), unit=0)
    merged = merge(EMPTY, pa.concat_tables([late, early]))
    assert merged.rows["title"].to_pylist() == ["first"]
    assert merged.duplicates["title"].to_pylist() == ["second"]
    assert (merged.new, merged.edited, merged.unchanged) == (1, 0, 0)


def test_merging_the_same_rows_again_changes_nothing() -> None:
    staged = source(product("a"), product("b", label=["x", "y"]))
    first = merge(EMPTY, staged).rows
    again = merge(first, staged)
    assert again.rows is first
    assert (again.new, again.edited, again.unchanged) == (0, 0, 2)


@pytest.mark.parametrize(
    "edit", [{"title": "new"}, {"description": "new"}, {"image": b"new"}, {"label": ["new"]}, {"label": None}]
)
def test_an_edit_of_any_field_replaces_the_row_and_only_it(edit: dict) -> None:
    old = merge(EMPTY, source(product("a", label=["x"]), product("b"))).rows
    merged = merge(old, source(product("a", label=["x"]) | edit))
    assert (merged.new, merged.edited, merged.unchanged) == (0, 1, 0)
    assert merged.rows["product_id"].to_pylist() == ["a", "b"]
    assert merged.rows.slice(1).equals(old.slice(1))


def test_categories_are_cut_to_the_level_and_short_paths_stay() -> None:
    label = pa.chunked_array([pa.array([["a", "b", "c"], ["a"], None])])
    assert category_of(label, 2).to_pylist() == ["a > b", "a", None]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    settings = Settings(preset="sample", level=1, seed=0, buckets=1)
    return Catalog(workspace=Workspace.create(str(tmp_path / "w"), settings))


def test_content_comes_back_by_hash_in_the_asked_order(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "i.jpg"
    file.write_bytes(b"by uri")
    staged = source(
        product("a", "x", image=b"by bytes"), product("b", "y", image=b"by uri", image_uri=str(file)), product("c", "x")
    )
    catalog.table.commit([catalog.table.write_file(merge(EMPTY, staged).rows, bucket=0)], app_id="run")
    images = staged.filter(pa.compute.is_valid(staged["image"])).select(schema.IMAGES.names)
    catalog.images.commit([catalog.images.write_file(images, bucket=0)], app_id="run")
    x, y = staged["text_hash"].to_pylist()[:2]
    assert catalog.content("text", 0, pa.array([y, x, y]))["title"].to_pylist() == ["y", "x", "y"]
    wanted = pa.array([digest(b"by uri"), digest(b"by bytes")])
    content = catalog.content("image", 0, wanted)
    assert content["image"].to_pylist() == [b"by uri", b"by bytes"]
    assert content["reason"].to_pylist() == content["message"].to_pylist() == [None, None]
    file.write_bytes(b"another image now")
    content = catalog.content("image", 0, wanted)
    assert content["image"].to_pylist() == [None, b"by bytes"]
    assert content["content_hash"].to_pylist() == wanted.to_pylist()
    assert content["reason"].to_pylist() == ["image_changed", None]
    assert content["message"].to_pylist() == [f"another image than at ingest: {str(file)!r}", None]
    file.unlink()
    content = catalog.content("image", 0, wanted)
    assert content["reason"].to_pylist() == ["image_missing", None]
    assert content["message"].to_pylist() == [f"no such file: {str(file)!r}", None]


def test_many_products_hash_alike_across_calls() -> None:
    ids = [f"p{i}" for i in range(1_000)]
    buckets = schema.bucket_of(ids, 8)
    assert np.bincount(buckets).min() > 80
    assert schema.bucket_of(["p0", "p1", "p2"], 8).tolist() == buckets[:3].tolist() == [3, 1, 1]


def test_of_a_feed_the_last_row_of_an_id_counts_whatever_the_order_of_arrival() -> None:
    late = source(product("a", "second"), product("b", "back", description="d"), unit=1)
    early = source(product("a", "first"), product("b", None, deleted=True), product("c", None, deleted=True), unit=0)
    old = merge(EMPTY, source(product("b"), product("c"))).rows
    merged = merge(old, pa.concat_tables([late, early]), last=True)
    assert merged.rows.select(["product_id", "title"]).to_pylist() == [
        {"product_id": "a", "title": "second"},
        {"product_id": "b", "title": "back"},
    ]
    assert merged.duplicates["position"].to_pylist() == [0, 1]
    assert (merged.new, merged.edited, merged.deleted, merged.deleted_unknown) == (1, 1, 1, 0)
    assert merged.removed.to_pylist() == ["c"]
    assert merged.edited_fields == {"title": 1, "description": 1, "image": 0, "label": 0}


def test_a_delete_of_an_unknown_product_changes_nothing() -> None:
    old = merge(EMPTY, source(product("a"))).rows
    merged = merge(old, source(product("b", None, deleted=True)), last=True)
    assert merged.rows is old
    assert (merged.deleted, merged.deleted_unknown, len(merged.removed)) == (0, 1, 0)


def test_what_differs_is_counted_and_named_by_field() -> None:
    first = product("a", "x", image=b"i", image_uri="https://h/i", label=["l"])
    old = merge(EMPTY, source(first)).rows
    edits = {"image": b"j", "label": ["m"], "description": "new"}
    assert merge(old, source(first | edits)).edited_fields == {"title": 0, "description": 1, "image": 1, "label": 1}
    moved = merge(old, source(first | {"image_uri": "https://h/j"}))
    assert (moved.edited, set(moved.edited_fields.values())) == (1, {0})
    twice = merge(EMPTY, source(first, first, first | {"title": None}, first | edits)).duplicates
    assert twice["differing"].to_pylist() == ["", "title", "description, image, label"]


def test_an_image_that_was_not_fetched_again_keeps_its_hash() -> None:
    rows = source(product("a", image_hash=digest(b"i"), image_uri="https://h/i"), product("b", image=b"j"))
    assert rows["image_hash"].to_pylist() == [digest(b"i"), digest(b"j")]
    assert rows["image"].to_pylist() == [None, b"j"]

"""What is stale: found by hashes, per encoder, computed once per content."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.catalog import Catalog, digest
from mmbatch.contents import OfModality
from mmbatch.feature_store import FeatureStore
from mmbatch.stale import UNIT_CONTENTS, Stale, hashes_of, identities, stale
from mmbatch.workspace import Settings, Workspace

BUCKETS = 4
Products = dict[str, tuple[str | None, int]]
"""Product id -> its text and its bucket."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    settings = Settings(preset="sample", level=1, seed=0, buckets=BUCKETS)
    return Workspace.create(str(tmp_path / "w"), settings)


@pytest.fixture
def query(workspace: Workspace) -> Callable[..., Stale]:
    """Makes the catalog say these products, and asks what the stores lack."""

    def ask(products: Products, *stores: FeatureStore) -> Stale:
        rows = [
            {"product_id": product, "text_hash": text and digest(text.encode()), "bucket": bucket}
            for product, (text, bucket) in sorted(products.items())
        ]
        table = Catalog(workspace=workspace).table
        before = table.snapshot()
        added = table.write_buckets(pa.Table.from_pylist(rows, schema=schema.CATALOG))
        run = f"catalog-{before.version}"
        table.replace(added, before.of(), app_id=run, read_version=before.version)
        return stale(OfModality(table.snapshot(), "text"), stores, buckets=BUCKETS)

    return ask


def store_of(workspace: Workspace, encoder: str = "e@1") -> FeatureStore:
    return FeatureStore(workspace=workspace, encoder=encoder, modality="text", width=2)


def put(store: FeatureStore, product: str, text: str, bucket: int) -> None:
    vector = np.ones((1, 2), np.float16)
    entry = store.write(pa.array([product]), pa.array([digest(text.encode())]), vector, bucket=bucket)
    store.table.commit([entry], app_id=f"{product}-{text}")


def computed(found: Stale) -> list[tuple[str, int, int]]:
    """Hash, bucket and encoders' bits of every content to compute."""
    return sorted(
        (content, unit.bucket, int(bits))
        for unit in found.units
        for content, bits in zip(hashes_of(unit.contents).to_pylist(), unit.lacking, strict=True)
    )


def test_new_edited_and_failed_products_are_stale_and_no_others(
    workspace: Workspace, query: Callable[..., Stale]
) -> None:
    store = store_of(workspace)
    put(store, "kept", "a", 0)
    put(store, "edited", "b", 0)
    put(store, "removed", "gone", 1)
    found = query({"kept": ("a", 0), "edited": ("B", 0), "new": ("c", 1), "textless": (None, 1)}, store)
    assert computed(found) == sorted([(digest(b"B"), 0, 1), (digest(b"c"), 1, 1)])
    assert dict(found.counts[0]) == {"products": 3, "unchanged": 1, "compute": 2, "copy": 0}


def test_equal_content_is_computed_for_the_first_product_and_copied_to_the_others(
    workspace: Workspace, query: Callable[..., Stale]
) -> None:
    found = query({"b": ("same", 2), "a": ("same", 3), "c": ("same", 2)}, store_of(workspace))
    assert computed(found) == [(digest(b"same"), 2, 1)]
    (copies,) = found.copies
    assert sorted(copies.buckets.tolist()) == [2, 3]
    assert copies.homes.tolist() == [2, 2]
    assert dict(found.counts[0]) == {"products": 3, "unchanged": 0, "compute": 1, "copy": 2}


def test_content_that_is_stored_under_another_product_is_not_computed(
    workspace: Workspace, query: Callable[..., Stale]
) -> None:
    store = store_of(workspace)
    put(store, "old id", "same", 3)
    found = query({"moved": ("same", 0)}, store)
    assert computed(found) == []
    assert hashes_of(found.copies[0].contents).to_pylist() == [digest(b"same")]
    assert (found.copies[0].buckets.tolist(), found.copies[0].homes.tolist()) == ([0], [3])


def test_each_encoder_gets_what_it_lacks_in_one_pass(workspace: Workspace, query: Callable[..., Stale]) -> None:
    old, new = store_of(workspace, "old@1"), store_of(workspace, "new@2")
    put(old, "p", "a", 0)
    found = query({"p": ("a", 0), "q": ("b", 1)}, old, new)
    assert computed(found) == sorted([(digest(b"a"), 0, 0b10), (digest(b"b"), 1, 0b11)])
    assert [count["unchanged"] for count in found.counts] == [1, 0]


def test_a_content_stored_for_one_encoder_is_copied_there_and_computed_for_the_other(
    workspace: Workspace, query: Callable[..., Stale]
) -> None:
    old, new = store_of(workspace, "old@1"), store_of(workspace, "new@2")
    put(old, "p", "a", 0)
    found = query({"p": ("a", 0), "twin": ("a", 1)}, old, new)
    assert computed(found) == [(digest(b"a"), 0, 0b10)]
    assert [copies.buckets.tolist() for copies in found.copies] == [[1], [1]]


def test_units_do_not_depend_on_what_is_done_already(workspace: Workspace, query: Callable[..., Stale]) -> None:
    products: Products = {f"p{i:05d}": (f"text {i}", i % BUCKETS) for i in range(3 * BUCKETS * UNIT_CONTENTS["text"])}
    store = store_of(workspace)
    first = query(products, store).units
    assert len(first) >= 3 * BUCKETS
    done = first[1]
    hashes = hashes_of(done.contents)
    owner = {digest(text.encode()): product for product, (text, _) in products.items() if text}
    ids = pa.array([owner[content] for content in hashes.to_pylist()])
    vectors = np.ones((len(ids), 2), np.float16)
    store.table.commit([store.write(ids, hashes, vectors, bucket=done.bucket)], app_id="done")
    left = query(products, store).units
    assert [unit.contents.tobytes() for unit in left] == [unit.contents.tobytes() for unit in first if unit is not done]


def test_a_few_changes_of_a_large_bucket_make_one_unit(workspace: Workspace, query: Callable[..., Stale]) -> None:
    products: Products = {f"p{i:05d}": (f"text {i}", 0) for i in range(4 * UNIT_CONTENTS["text"])}
    store = store_of(workspace)
    hashes = pa.array([digest(text.encode()) for text, _ in products.values() if text])
    vectors = np.ones((len(products), 2), np.float16)
    store.table.commit([store.write(pa.array(list(products)), hashes, vectors, bucket=0)], app_id="all")
    edited = dict(products) | {f"p{i:05d}": (f"edited {i}", 0) for i in range(0, 4096, 64)}
    (unit,) = query(edited, store).units
    assert len(unit.contents) == 64


def test_nothing_is_stale_in_an_empty_catalog(workspace: Workspace) -> None:
    contents = OfModality(Catalog(workspace=workspace).table.snapshot(), "text")
    found = stale(contents, [store_of(workspace)], buckets=BUCKETS)
    assert (found.units, found.counts[0]["products"]) == ([], 0)


def test_identities_and_hashes_are_inverse_whatever_bytes_they_end_in() -> None:
    hashes = pa.array(["00" * 16, "ab" * 15 + "00", "ff" * 16, digest(b"x")])
    ids = identities(pa.chunked_array([hashes[:1], hashes[1:]]))
    assert ids.dtype == np.dtype("S16")
    assert hashes_of(ids).equals(hashes)
    assert hashes_of(ids[2:]).equals(hashes[2:])
    assert identities(hashes.slice(1, 2)).tobytes() == ids[1:3].tobytes()

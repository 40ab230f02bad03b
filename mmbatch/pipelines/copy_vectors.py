"""Gives products whose content is stored under another product a vector of their own, without encoding it.

Two passes, so that every bucket is read once however the copies are spread: the buckets that hold the vectors set them
aside, sorted by where they go; then each bucket that lacks some takes what was set aside for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.contents import Contents
from mmbatch.feature_store import FeatureStore
from mmbatch.pipelines.cluster import remove_folder, stream
from mmbatch.pipelines.metrics import written
from mmbatch.pipelines.resources import COPY
from mmbatch.pipelines.staging import StagingWriter, read_staged
from mmbatch.progress import Progress
from mmbatch.stale import Copies, hashes_of
from mmbatch.tables import FileEntry
from mmbatch.workspace import Workspace


class Wanted(NamedTuple):
    """What is to be copied within one store."""

    store: FeatureStore
    copies: Copies
    contents: Contents
    """The contents of the products."""


def copy_vectors(
    workspace: Workspace,
    copies: Sequence[Wanted],
    *,
    run_id: str,
    failures: Sequence[Mapping[str, Any]],
) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Copy vectors within each store; returns the rows given per encoder, and a failure per product that got none.

    `failures` are those of the contents that were to be computed: copies of these fail for the same reason.
    """
    reused: Counter[str] = Counter()
    uncopied: list[dict[str, Any]] = []
    for store, wanted, contents in copies:
        folder = workspace.path("tmp", run_id, store.encoder)
        why = {failure["content_hash"]: failure for failure in failures if failure["encoder"] == store.encoder}
        list(stream(list(_units(wanted.homes, wanted)), partial(_set_aside, store=store, folder=folder), ask=COPY))
        progress = Progress("copy", len(wanted.contents), "vectors")
        entries: list[FileEntry] = []
        take = partial(_take, contents=contents, store=store, folder=folder, why=why)
        for done in stream(list(_units(wanted.buckets, wanted)), take, ask=COPY):
            entries += [FileEntry(**entry) for entry in done["entries"]]
            uncopied += done["failures"]
            progress.advance(done["products"])
        store.table.commit(entries, app_id=f"{run_id}-copy")
        written("features", entries)
        reused[store.encoder] = sum(entry.rows for entry in entries)
    remove_folder(workspace.path("tmp", run_id))
    return reused, uncopied


def _units(by: np.ndarray, copies: Copies) -> Iterator[dict[str, Any]]:
    """The copies by one of their buckets, as plain rows."""
    order = np.argsort(by, kind="stable")
    starts = np.flatnonzero(np.diff(by[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        rows = order[start:end]
        yield {
            "bucket": int(by[rows[0]]),
            "contents": copies.contents[rows].tobytes(),
            "to": copies.buckets[rows].tobytes(),
        }


def _set_aside(unit: dict[str, Any], *, store: FeatureStore, folder: str) -> list[dict[str, Any]]:
    """Write the vectors of a bucket that other products need, once for each bucket that needs them."""
    hashes = hashes_of(np.frombuffer(unit["contents"], "S16"))
    rows = pa.table({"content_hash": hashes, "bucket": np.frombuffer(unit["to"], np.int32)})
    rows = rows.group_by(["content_hash", "bucket"]).aggregate([]).select(_staged(store).names[:2])
    vectors, present = store.read(rows["content_hash"], buckets=[unit["bucket"]])
    rows = rows.append_column("vector", store.vector_array(vectors)).filter(pa.array(present))
    writer = StagingWriter(f"{folder}/{unit['bucket']:08d}")
    writer.add(rows.cast(_staged(store)))
    writer.flush()
    return [{"bucket": unit["bucket"]}]


def _staged(store: FeatureStore) -> pa.Schema:
    return pa.schema([store.table.schema.field("content_hash"), ("bucket", pa.int32()), _vector(store)])


def _vector(store: FeatureStore) -> pa.Field:
    return store.table.schema.field("vector")


def _take(
    unit: dict[str, Any],
    *,
    contents: Contents,
    store: FeatureStore,
    folder: str,
    why: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Write rows for a bucket's products from the vectors that were set aside for it."""
    bucket = unit["bucket"]
    products = _lacking(contents, store, bucket, hashes_of(np.frombuffer(unit["contents"], "S16")))
    staged = read_staged(folder, _staged(store), bucket)
    place = pc.index_in(products["content_hash"], value_set=staged["content_hash"].combine_chunks()).combine_chunks()
    found = products.filter(pc.is_valid(place))
    vectors = store.matrix(staged["vector"])[pc.drop_null(place).to_numpy()]
    ids, hashes = found["product_id"].combine_chunks(), found["content_hash"].combine_chunks()
    entries = [asdict(store.write(ids, hashes, vectors, bucket=bucket))] if len(found) else []
    left = products.filter(pc.is_null(place)).to_pylist()
    failures = [dict(why[row["content_hash"]]) | row for row in left]
    failures = [failure for failure in failures if failure != why[failure["content_hash"]]]  # that one is known
    return [{"products": len(found) + len(failures), "entries": entries, "failures": failures}]


def _lacking(contents: Contents, store: FeatureStore, bucket: int, hashes: pa.Array) -> pa.Table:
    """`product_id`, `content_hash` of the bucket's products with these contents that have no vector of it yet."""
    rows = contents.read(bucket)
    rows = rows.filter(pc.is_in(rows["content_hash"], value_set=hashes))
    stored = store.table.read(["product_id", "content_hash"], buckets=[bucket])
    rows = rows.join(stored, keys=["product_id", "content_hash"], join_type="left anti")
    return rows.sort_by("product_id")

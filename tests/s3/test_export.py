"""Exports to S3: an object is replaced when the new one is whole, and what was begun leaves nothing behind."""

import json

import pyarrow as pa
import pytest
from s3fs import S3FileSystem

from mmbatch.errors import InputError
from mmbatch.export import check_out, published
from mmbatch.file_writers import table_file
from tests.published_tables import new_workspace, prediction, publish

SCHEMA = pa.schema([("a", pa.string())])
ROWS = pa.table({"a": ["x" * 1000] * 10_000}, SCHEMA)
PARTS = 12
"""120 MB, in several requests."""


def test_an_object_is_replaced_when_the_new_one_is_whole(bucket: str) -> None:
    store, uri = S3FileSystem(use_listings_cache=False), f"{bucket}/a.jsonl"
    with table_file(uri, SCHEMA, named=uri) as append:
        append(ROWS[:1])
    first = store.cat_file(uri)
    assert json.loads(first) == {"a": "x" * 1000}

    def fail(parts: int) -> None:
        with table_file(uri, SCHEMA, named=uri) as append:
            for _ in range(parts):
                append(ROWS)
            raise RuntimeError("no more rows")

    for parts in (1, PARTS):
        with pytest.raises(RuntimeError, match="no more rows"):
            fail(parts)
        assert store.cat_file(uri) == first
    name = bucket.removeprefix("s3://")
    assert store.call_s3("list_multipart_uploads", Bucket=name).get("Uploads", []) == []
    with table_file(uri, SCHEMA, named=uri) as append:
        for _ in range(PARTS):
            append(ROWS)
    assert store.info(uri)["size"] == PARTS * len(ROWS) * len(first)
    with table_file(uri, SCHEMA, named=uri):
        pass
    assert store.cat_file(uri) == b""


def test_what_is_published_goes_from_one_prefix_to_another(bucket: str) -> None:
    workspace = new_workspace(bucket)
    publish(workspace, prediction("p"))
    check_out(workspace, f"{bucket}/out.csv.gz")
    assert published(workspace).write(f"{bucket}/out.csv.gz") == 1
    for scheme in ("s3", "s3a"):
        with pytest.raises(InputError, match="found a place inside the workspace"):
            check_out(workspace, f"{workspace.uri}/out.csv".replace("s3", scheme, 1))
    with pytest.raises(InputError, match=r"^--out s3://nowhere-at-all/a.csv: cannot be written: .*NoSuchBucket"):
        published(workspace).write("s3://nowhere-at-all/a.csv")

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from mmbatch.errors import InputError, LostRaceError
from mmbatch.tables import Table

SCHEMA = pa.schema([("product_id", pa.string()), ("vector", pa.binary(4)), ("bucket", pa.int32())])


def rows(ids: list[str], bucket: int = 0) -> pa.Table:
    return pa.table({"product_id": ids, "vector": [os.urandom(4) for _ in ids], "bucket": [bucket] * len(ids)}, SCHEMA)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(str(tmp_path / "t"), SCHEMA)


def test_an_absent_table_reads_as_empty(table: Table) -> None:
    assert table.version() == -1
    assert table.rows() == 0
    assert table.read(["product_id"]).schema.names == ["product_id"]


def test_uncommitted_files_are_invisible_and_committed_ones_read_back_exactly(table: Table) -> None:
    data = rows(["a", "b"])
    entry = table.write_file(data, bucket=0)
    assert table.read().num_rows == 0
    table.commit([entry], app_id="run")
    assert table.read().equals(data)
    assert table.rows() == 2


def test_the_same_commit_again_adds_nothing(table: Table) -> None:
    entry = table.write_file(rows(["a"]), bucket=0)
    first = table.commit([entry], app_id="run", version=1)
    again = table.write_file(rows(["a"]), bucket=0)
    assert table.commit([again], app_id="run", version=1) == first
    assert table.rows() == 1
    assert table.commit([again], app_id="run", version=2) > first


def test_writers_that_make_the_same_table_at_once_all_land(tmp_path: Path) -> None:
    writers, tables = 8, 5
    together = Barrier(writers)

    def write(writer: int) -> None:
        for number in range(tables):
            table = Table(f"{tmp_path}/{number}", SCHEMA)
            files = [table.write_file(rows([f"{writer}"]), bucket=0)]
            together.wait(timeout=60)
            table.commit(files, app_id=f"writer-{writer}")

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    for number in range(tables):
        found = Table(f"{tmp_path}/{number}", SCHEMA).read(["product_id"])["product_id"].to_pylist()
        assert sorted(found) == sorted(map(str, range(writers)))


def test_replacing_what_another_run_replaced_first_loses_the_race(table: Table) -> None:
    old = table.write_file(rows(["a"]), bucket=0)
    read = table.commit([old], app_id="first")
    table.replace([table.write_file(rows(["b"]), bucket=0)], [old], app_id="second", read_version=read)
    with pytest.raises(LostRaceError, match="another run has written version 2, this one read 1"):
        table.replace([table.write_file(rows(["c"]), bucket=0)], [old], app_id="third", read_version=read)
    assert table.read(["product_id"])["product_id"].to_pylist() == ["b"]


def test_reads_are_by_bucket_and_filters_are_pushed_down(table: Table) -> None:
    mixed = pa.concat_tables([rows(["a", "b"], 0), rows(["c"], 1), rows(["d"], 0)])
    entries = table.write_buckets(mixed)
    assert [(e.bucket, e.rows) for e in entries] == [(0, 3), (1, 1)]
    table.commit(entries, app_id="run")
    assert table.read(["product_id"], buckets=[1])["product_id"].to_pylist() == ["c"]
    assert table.read(["bucket"], filters=ds.field("product_id") == "d")["bucket"].to_pylist() == [0]


def test_an_old_version_stays_readable(table: Table) -> None:
    entry = table.write_file(rows(["a"]), bucket=0)
    first = table.commit([entry], app_id="one")
    table.replace([table.write_file(rows(["b"]), bucket=0)], [entry], app_id="two", read_version=first)
    assert table.snapshot(first).read()["product_id"].to_pylist() == ["a"]


def test_other_readers_see_the_same_rows(table: Table) -> None:
    data = rows(["a", "b", "c"])
    table.commit([table.write_file(data, bucket=0)], app_id="run")
    assert pl.scan_delta(table.uri).select("product_id").collect()["product_id"].to_list() == ["a", "b", "c"]


def test_a_table_with_other_columns_is_refused_by_name(table: Table) -> None:
    table.commit([table.write_file(rows(["a"]), bucket=0)], app_id="run")
    other = Table(table.uri, pa.schema([("product_id", pa.string()), ("bucket", pa.int32())]))
    with pytest.raises(InputError, match=r"columns are \['bucket', 'product_id', 'vector'\], expected"):
        other.read()

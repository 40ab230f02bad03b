"""Readers see exactly one committed version, whatever the writer does meanwhile: append, replace, compact, delete.

And every reader understands what is published: DuckDB, Polars, pandas, and Spark by what it demands of log and files.

In the first tests, every version holds, for one generation, `PARTS` parts of every bucket or a compacted form of the
same rows; an append adds a whole part to every bucket in one commit. A reader that mixed two versions would see two
generations, or buckets of different lengths.
"""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from mmbatch.runs import runs_table
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Workspace
from tests.conftest import ROOT
from tests.published_tables import add_changes, add_run, change, new_workspace, prediction, publish

SCHEMA = pa.schema([("product_id", pa.string()), ("generation", pa.int64()), ("bucket", pa.int32())])
BUCKETS, PARTS, ROWS = 3, 3, 4
READERS, READS = 3, 510
"""Threads, and reads by all of them with each way of reading: 2,040 in all."""
KEEP = timedelta(hours=1)
"""A reader holds a version for milliseconds; the window is the shortest that the job allows."""


def write_for_ever(uri: str) -> None:
    """New generation, appends, compaction, deletion of files that nobody can need, and again."""
    table = Table(uri, SCHEMA)
    generation = table.read(["generation"])["generation"][0].as_py()
    while True:
        generation += 1
        _replace(table, part_of(table, generation, 0), f"new-{generation}")
        for part in range(1, PARTS):
            table.commit(part_of(table, generation, part), app_id=f"append-{generation}-{part}")
        compacted = [table.write_file(table.read(buckets=[bucket]), bucket=bucket) for bucket in range(BUCKETS)]
        _replace(table, compacted, f"compact-{generation}")
        dead = table.write_file(table.read(buckets=[0]), bucket=0)
        os.utime(f"{uri}/{dead.path}", (0, 0))
        table.delete(list(table.unreferenced(KEEP)))
        if table.loose_commits() >= 10:
            table.checkpoint()


def _replace(table: Table, added: list[FileEntry], app_id: str) -> None:
    found = table.snapshot()
    table.replace(added, found.entries, app_id=app_id, read_version=found.version)


def part_of(table: Table, generation: int, part: int) -> list[FileEntry]:
    """One more file for every bucket."""
    columns = {"product_id": [f"{part}-{row}" for row in range(ROWS)], "generation": [generation] * ROWS}
    return [
        table.write_file(pa.table(columns | {"bucket": [bucket] * ROWS}, SCHEMA), bucket=bucket)
        for bucket in range(BUCKETS)
    ]


def with_table(uri: str) -> pa.Table:
    return Table(uri, SCHEMA).read(["generation", "bucket"])


def with_snapshot(uri: str) -> pa.Table:
    """Bucket by bucket, as a job does, which takes longest."""
    snapshot = Table(uri, SCHEMA).snapshot()
    return pa.concat_tables([snapshot.read(["generation", "bucket"], buckets=[bucket]) for bucket in range(BUCKETS)])


def with_arrow(uri: str) -> pa.Table:
    """The files that the log names, read as plain Parquet: what Spark, DuckDB and pandas do."""
    files = deltalake.DeltaTable(uri).file_uris()
    partitions = ds.partitioning(pa.schema([("bucket", pa.int32())]), flavor="hive")
    return ds.dataset(files, format="parquet", partitioning=partitions).to_table(columns=["generation", "bucket"])


def with_polars(uri: str) -> pa.Table:
    return pl.scan_delta(uri).select("generation", "bucket").collect().to_arrow()


Reader = Callable[[str], pa.Table]


def wrong(rows: pa.Table) -> str | None:
    """What shows that rows are not of one version; None when they are."""
    generations = pc.unique(rows["generation"]).to_pylist()
    lengths = Counter(rows["bucket"].to_pylist())
    whole = {
        bucket: length for bucket, length in lengths.items() if length % ROWS or not ROWS <= length <= PARTS * ROWS
    }
    if len(generations) != 1 or len(lengths) != BUCKETS or len(set(lengths.values())) != 1 or whole:
        return f"generations {generations}, rows by bucket {dict(lengths)}"
    return None


@contextmanager
def writer(uri: str) -> Iterator[subprocess.Popen[bytes]]:
    code = f"from tests.test_readers import write_for_ever; write_for_ever({uri!r})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("read", [with_table, with_snapshot, with_arrow, with_polars])
def test_every_read_sees_one_committed_version(tmp_path: Path, read: Reader) -> None:
    table = Table(str(tmp_path / "t"), SCHEMA)
    table.commit(part_of(table, 0, 0), app_id="first")
    seen: list[set[int]] = [set() for _ in range(READERS)]
    failures: list[str] = []
    with writer(table.uri) as process:
        while table.version() < 2:
            assert process.poll() is None
        first = table.version()
        threads = [threading.Thread(target=partial(_read, read, table.uri, failures, found)) for found in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert process.poll() is None
        last = table.version()
    assert failures == []
    assert last > first + 10
    assert len(set.union(*seen)) > 3


def _read(read: Reader, uri: str, failures: list[str], seen: set[int]) -> None:
    """Read `READS` times, or until something is wrong."""
    for _ in range(READS // READERS):
        try:
            rows = read(uri)
        except (OSError, pa.ArrowException, pl.exceptions.PolarsError, deltalake.exceptions.DeltaError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            return
        if found := wrong(rows):
            failures.append(found)
            return
        seen.add(rows["generation"][0].as_py())


def test_a_mixture_of_versions_would_be_seen() -> None:
    def rows(generations: list[int], buckets: list[int]) -> pa.Table:
        return pa.table({"generation": generations, "bucket": buckets})

    good = [0] * ROWS + [1] * ROWS + [2] * ROWS
    assert wrong(rows([7] * len(good), good)) is None
    assert wrong(rows([7] * len(good[:-1]) + [8], good)) is not None
    assert wrong(rows([7] * len(good) + [7] * ROWS, good + [0] * ROWS)) is not None
    assert wrong(rows([7] * 2 * ROWS, good[: 2 * ROWS])) is not None


BARE = prediction("bare", label=None, category=None, top_categories=None, top_probabilities=None, title_hash=None)
PUBLISHED = {row["product_id"]: row for row in (*(prediction(f"p{number}") for number in range(8)), BARE)}
CHANGED = {row["product_id"]: row for row in (change("p0", "x", "y", "two"), change("p1", None, "é", "two"))}

SPARK_TYPES = {
    "string",
    "long",
    "integer",
    "short",
    "byte",
    "float",
    "double",
    "boolean",
    "binary",
    "date",
    "timestamp",
}
"""Primitive types of Delta's protocol that need no table feature, without decimals."""

PARQUET_TYPES = {("BYTE_ARRAY", "String"), ("FLOAT", "None"), ("DOUBLE", "None"), ("INT64", "None"), ("INT32", "None")}
"""Physical and logical types of leaves that Spark 3 reads, besides timestamps in microseconds."""

TIMESTAMP = (
    "Timestamp(isAdjustedToUTC=true, timeUnit=microseconds, is_from_converted_type=false, force_set_converted_ty"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Predictions in two versions, changes and a ledger."""
    made = new_workspace(tmp_path_factory.mktemp("published"))
    first, *rest = PUBLISHED.values()
    publish(made, first)
    publish(made, *rest, app_id="two").checkpoint()
    add_changes(made, *CHANGED.values())
    add_run(made, "two", minute=1)
    return made


def published_rows(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by product, maps as pairs, without the bucket."""
    found = {}
    for row in rows:
        plain = {name: list(value.items()) if isinstance(value, dict) else value for name, value in row.items()}
        assert plain.pop("bucket") in range(4)
        found[row["product_id"]] = plain
    return found


def duckdb_rows(uri: str, version: int | None = None) -> list[dict[str, Any]]:
    files = deltalake.DeltaTable(uri, version=version).file_uris()
    partitions = ds.partitioning(pa.schema([("bucket", pa.int32())]), flavor="hive")
    data = ds.dataset(files, format="parquet", partitioning=partitions)
    rows: list[dict[str, Any]] = duckdb.from_arrow(data).to_arrow_table().to_pylist()
    return rows


def polars_rows(uri: str, version: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pl.scan_delta(uri, version=version).collect().to_arrow().to_pylist()
    return rows


def pandas_rows(uri: str, version: int | None = None) -> list[dict[str, Any]]:
    frame = deltalake.DeltaTable(uri, version=version).to_pandas(types_mapper=pd.ArrowDtype)
    rows: list[dict[str, Any]] = pa.Table.from_pandas(frame, preserve_index=False).to_pylist()
    return rows


RowReader = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize("read", [duckdb_rows, polars_rows, pandas_rows])
def test_every_reader_finds_what_is_published(workspace: Workspace, read: RowReader) -> None:
    assert published_rows(read(workspace.path("predictions"))) == PUBLISHED
    assert published_rows(read(workspace.path("changes"))) == CHANGED


@pytest.mark.parametrize("read", [duckdb_rows, polars_rows, pandas_rows])
def test_every_reader_finds_an_earlier_version(workspace: Workspace, read: RowReader) -> None:
    assert set(published_rows(read(workspace.path("predictions"), version=1))) == {"p0"}


def actions(uri: str, kind: str) -> list[dict[str, Any]]:
    """All actions of a kind in the log of a table."""
    entries = sorted(Path(uri, "_delta_log").glob("*.json"))
    lines = [json.loads(line) for entry in entries for line in entry.read_text().splitlines()]
    return [line[kind] for line in lines if kind in line]


def primitive_types(type: Any) -> set[str]:
    """Primitive types that a type of Delta's schema is made of."""
    if isinstance(type, str):
        return {type}
    parts = {"array": ("elementType",), "map": ("keyType", "valueType")}[type["type"]]
    return set().union(*(primitive_types(type[part]) for part in parts))


def parquet_types(file: str) -> set[tuple[str, str]]:
    leaves = pq.ParquetFile(file).schema
    return {(leaves.column(at).physical_type, str(leaves.column(at).logical_type)) for at in range(len(leaves))}


@pytest.mark.parametrize("name", ["predictions", "changes", "runs"])
def test_spark_knows_all_that_the_log_demands(workspace: Workspace, name: str) -> None:
    uri = workspace.path(name)
    assert actions(uri, "protocol") == [{"minReaderVersion": 1, "minWriterVersion": 2}]
    [metadata] = actions(uri, "metaData")
    assert metadata["format"]["provider"] == "parquet"
    assert metadata["partitionColumns"] == ["bucket"]
    columns = {column["name"]: column["type"] for column in json.loads(metadata["schemaString"])["fields"]}
    assert columns["bucket"] == "integer"
    assert set().union(*map(primitive_types, columns.values())) <= SPARK_TYPES
    added = actions(uri, "add")
    assert added
    for action in added:
        [bucket] = action["partitionValues"].values()
        assert action["path"].startswith(f"bucket={int(bucket)}/")
        assert json.loads(action["stats"])["numRecords"] == pq.read_metadata(f"{uri}/{action['path']}").num_rows
        assert action["size"] == Path(uri, action["path"]).stat().st_size


@pytest.mark.parametrize("name", ["predictions", "changes", "runs"])
def test_spark_reads_every_type_in_the_files(workspace: Workspace, name: str) -> None:
    uri = workspace.path(name)
    columns = set(deltalake.DeltaTable(uri).schema().to_arrow().names) - {"bucket"}
    for file in deltalake.DeltaTable(uri).file_uris():
        assert set(pq.read_schema(file).names) == columns
        unknown = {found for found in parquet_types(file) if found not in PARQUET_TYPES}
        assert {(physical, logical[: len(TIMESTAMP)]) for physical, logical in unknown} <= {("INT64", TIMESTAMP)}
    assert runs_table(workspace).rows() == 1


def test_a_type_that_spark_does_not_read_is_found(tmp_path: Path) -> None:
    for type in (pa.timestamp("ns", tz="UTC"), pa.timestamp("us"), pa.float16(), pa.uint64(), pa.time64("us")):
        pq.write_table(pa.table({"a": pa.array([None], type)}), tmp_path / "a.parquet")
        [(physical, logical)] = parquet_types(str(tmp_path / "a.parquet"))
        assert (physical, logical) not in PARQUET_TYPES
        assert not logical.startswith(TIMESTAMP)

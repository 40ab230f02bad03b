"""Readers see exactly one committed version, whatever the writer does meanwhile: append, replace, compact, delete.

Every version holds, for one generation, `PARTS` parts of every bucket or a compacted form of the same rows; an append
adds a whole part to every bucket in one commit. A reader that mixed two versions would see two generations, or buckets
of different lengths.
"""

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

import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from mmbatch.tables import FileEntry, Table
from tests.conftest import ROOT

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

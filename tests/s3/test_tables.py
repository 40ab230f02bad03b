"""Delta tables on S3: concurrent writers, commits whose answer is lost, files that are cut."""

import multiprocessing
from collections import Counter

import pyarrow as pa
import pytest

from mmbatch.storage import S3_OPTIONS, StorageError, storage_errors
from mmbatch.tables import Table
from tests.s3.conftest import Server
from tests.s3.proxy import FaultProxy, fault_at, spread_faults

SCHEMA = pa.schema([("key", pa.string()), ("bucket", pa.int32())])
WRITERS = 4


def rows(*keys: str) -> pa.Table:
    return pa.table({"key": list(keys), "bucket": [0] * len(keys)}, schema=SCHEMA)


def write(uri: str, writer: int, commits: int) -> None:
    """Commits, each asked for twice, as a job would that heard no answer."""
    table = Table(uri, SCHEMA)
    for number in range(commits):
        files = [table.write_file(rows(f"{writer}-{number}"), bucket=0)]
        for _ in range(2):
            table.commit(files, app_id=f"writer-{writer}", version=number)


def write_at_once(uri: str, commits: int) -> list[int | None]:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(uri, writer, commits)) for writer in range(WRITERS)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    return [process.exitcode for process in writers]


@pytest.fixture
def commits(server: Server) -> int:
    """Of each writer; moto answers one request at a time."""
    return {"moto": 3, "rgw": 8}[server.kind]


def everything(commits: int) -> Counter[str]:
    return Counter(f"{writer}-{number}" for writer in range(WRITERS) for number in range(commits))


def test_concurrent_writers_lose_nothing_and_write_nothing_twice(bucket: str, commits: int) -> None:
    uri = f"{bucket}/table"
    assert write_at_once(uri, commits) == [0] * WRITERS
    assert Counter(Table(uri, SCHEMA).read(["key"])["key"].to_pylist()) == everything(commits)


def test_concurrent_writers_under_faults(bucket: str, faulty: FaultProxy, commits: int) -> None:
    faulty.plan = spread_faults(share=0.05)
    uri = f"{bucket}/table"
    assert write_at_once(uri, commits) == [0] * WRITERS
    assert set(faulty.injected) == {"slow_down", "reset", "slow", "cut", "lost"}
    assert Counter(Table(uri, SCHEMA).read(["key"])["key"].to_pylist()) == everything(commits)


@pytest.mark.parametrize("fault", ["lost", "reset", "slow_down", "slow"])
def test_a_commit_that_is_disturbed_lands_once(fault: str, bucket: str, faulty: FaultProxy) -> None:
    table = Table(f"{bucket}/table", SCHEMA)
    table.commit([table.write_file(rows("a"), bucket=0)], app_id="one")
    faulty.plan = fault_at(r"_delta_log/0+2\.json", fault, method="PUT")
    files = [table.write_file(rows("b"), bucket=0)]
    version = table.commit(files, app_id="two")
    assert faulty.injected == {fault: 1}
    assert table.commit(files, app_id="two") == version
    assert sorted(table.read(["key"])["key"].to_pylist()) == ["a", "b"]


def test_a_replacement_whose_answer_is_lost_has_landed(bucket: str, faulty: FaultProxy) -> None:
    table = Table(f"{bucket}/table", SCHEMA)
    table.commit([table.write_file(rows("a"), bucket=0)], app_id="one")
    before, version = table.files(), table.version()
    faulty.plan = fault_at(rf"_delta_log/0+{version + 1}\.json", "lost", method="PUT")
    table.replace([table.write_file(rows("b"), bucket=0)], before, app_id="two", read_version=version)
    assert faulty.injected == {"lost": 1}
    assert table.read(["key"])["key"].to_pylist() == ["b"]


def test_a_table_whose_creation_is_not_answered(bucket: str, faulty: FaultProxy) -> None:
    table = Table(f"{bucket}/table", SCHEMA)
    faulty.plan = fault_at(r"_delta_log/0+\.json", "lost", method="PUT")
    table.commit([table.write_file(rows("a"), bucket=0)], app_id="one")
    assert faulty.injected == {"lost": 1}
    assert table.rows() == 1


def test_a_file_that_cannot_be_written_is_an_error(
    bucket: str, faulty: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = S3_OPTIONS | {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setattr("mmbatch.storage.S3_OPTIONS", once)
    table = Table(f"{bucket}/table", SCHEMA)
    faulty.plan = fault_at(r"\.parquet", "reset", method="PUT", times=1_000)
    with pytest.raises(StorageError, match="no usable answer after several attempts"), storage_errors():
        table.write_file(rows("a"), bucket=0)


def test_a_file_that_is_cut_on_the_way_is_read_again(bucket: str, faulty: FaultProxy) -> None:
    table = Table(f"{bucket}/table", SCHEMA)
    keys = [f"{number:032x}" for number in range(20_000)]
    table.commit([table.write_file(rows(*keys), bucket=0)], app_id="one")
    faulty.plan = fault_at(r"\.parquet", "cut", method="GET", times=3)
    assert table.read(["key"])["key"].to_pylist() == keys
    assert faulty.injected == {"cut": 3}

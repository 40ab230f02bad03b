"""Making a workspace on S3: one creator wins, and a store that cannot decide that is refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3fs import S3FileSystem

from mmbatch.errors import LostRaceError
from mmbatch.storage import StorageError, create_file, probe_conditional_put, storage_errors
from mmbatch.workspace import Settings, Workspace
from tests.s3.conftest import Server
from tests.s3.proxy import FaultProxy, fault_at, running, spread_faults

SETTINGS = Settings(preset="sample", level=1, seed=0, buckets=4)
CREATORS = 8


def create(uri: str) -> Workspace | None:
    try:
        return Workspace.create(uri, SETTINGS)
    except LostRaceError:
        return None


def test_of_creators_at_the_same_moment_one_wins(bucket: str) -> None:
    with ThreadPoolExecutor(CREATORS) as pool:
        made = list(pool.map(create, [f"{bucket}/w"] * CREATORS))
    assert len([workspace for workspace in made if workspace]) == 1
    assert Workspace.open(f"{bucket}/w").settings == SETTINGS


def test_under_faults_no_two_win_and_no_creator_takes_itself_for_another(bucket: str, faulty: FaultProxy) -> None:
    faulty.plan = spread_faults(share=0.2)
    for number in range(5):
        uri = f"{bucket}/w{number}"
        assert [create(uri) is None, create(uri) is None] == [False, True]
    assert faulty.injected["lost"] > 0


def test_a_creation_whose_answer_is_lost_is_recognised_as_ours(bucket: str, faulty: FaultProxy) -> None:
    faulty.plan = fault_at(r"/workspace\.json", "lost", method="PUT")
    Workspace.create(f"{bucket}/w", SETTINGS)
    assert faulty.injected == {"lost": 1}
    with pytest.raises(LostRaceError, match="another run has made this workspace"):
        Workspace.create(f"{bucket}/w", SETTINGS)


def test_a_file_is_created_once_also_by_one_writer(bucket: str) -> None:
    create_file(f"{bucket}/file", b"same")
    with pytest.raises(FileExistsError):
        create_file(f"{bucket}/file", b"same")


def test_the_probe_leaves_nothing_behind(bucket: str) -> None:
    probe_conditional_put(f"{bucket}/w")
    assert S3FileSystem(use_listings_cache=False).find(bucket) == []


def test_a_store_that_ignores_conditions_is_refused(moto: Server, use: Callable[..., dict[str, str]]) -> None:
    with running(FaultProxy(moto.url, strip="if-none-match")) as deaf:
        use(deaf.url)
        S3FileSystem().mkdir("deaf")
        with pytest.raises(StorageError, match="ignores If-None-Match"):
            Workspace.create("s3://deaf/w", SETTINGS)
        assert S3FileSystem(use_listings_cache=False).find("deaf") == []


def test_a_missing_bucket_is_not_made(bucket: str) -> None:
    with pytest.raises(StorageError, match="no such bucket"), storage_errors():
        Workspace.create(f"{bucket}-none/w", SETTINGS)
    assert not S3FileSystem(use_listings_cache=False).exists(f"{bucket}-none")

"""What is wrong with a cluster is said in one line."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from ray.cluster_utils import Cluster
from ray.exceptions import ObjectStoreFullError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from mmbatch.drill.local_ray import kill, processes
from mmbatch.errors import ClusterError, InputError, RefusedToPublishError
from mmbatch.pipelines.cluster import run_task, start_ray, stream
from mmbatch.pipelines.joining import check_nodes
from mmbatch.pipelines.ray_failures import said_error
from mmbatch.pipelines.resources import LOCAL_OBJECT_STORE, MERGE
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job

SETTINGS = Settings(preset="sample", level=1, seed=0, buckets=4)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray")]

STORE_BYTES = 100 << 20
START_S = 60.0


@contextmanager
def cluster_of(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Cluster]:
    """A head with two processors, to be joined, with Ray's own settings."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": STORE_BYTES, "_system_config": settings}
    found = Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:8265", "expected HOST:PORT of the head"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT of the head"),
        ("nonsense", "nonsense"),
        ("head.invalid:6379", "head.invalid:6379: "),
    ],
)
def test_a_wrong_address_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, reason: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS={address}: .*") as caught:
        start_ray()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_cluster_at_the_address_ends_the_job_with_2(tmp_path: Path, sample_file: Path, free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    done = run_job("ingest", "--workspace", tmp_path / "ws", "--source", sample_file, RAY_ADDRESS=address)
    assert done.returncode == 2
    assert f"error: RAY_ADDRESS={address}: " in done.stderr.splitlines()[-1]
    assert "Connection refused" in done.stderr.splitlines()[-1]


def test_something_else_at_the_address_is_noticed_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ClusterError, match=r"RAY_ADDRESS=127.0.0.1:\d+: .*GCS"):
            start_ray()


def test_a_cluster_of_another_ray_version(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of(monkeypatch):
        monkeypatch.setattr(ray, "__version__", "2.59.0")
        with pytest.raises(ClusterError, match=r"Version mismatch: The cluster was started with: Ray: 2\.60") as caught:
            start_ray()
    assert "was started with: Ray: 2.59.0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_workspace_that_no_machine_reaches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`memory://` lies in this process, as a folder may lie on this machine only."""
    alone = Workspace.create("memory://alone", SETTINGS)
    shared = Workspace.create(str(tmp_path / "shared"), SETTINGS)
    with cluster_of(monkeypatch) as cluster:
        cluster.add_node(num_cpus=0, object_store_memory=STORE_BYTES)  # works nothing, so it need not read
        start_ray(shared)
        with pytest.raises(ClusterError) as caught:
            start_ray(alone)
        with pytest.raises(ClusterError, match="another workspace lies there"):
            check_nodes(shared.uri, Settings(preset="kakao", level=1, seed=0, buckets=4))
    address = ray._private.services.get_node_ip_address()
    assert str(caught.value) == (
        f"--workspace memory://alone: the node {address} cannot read it: no workspace.json there; `jobs.ingest` makes a"
        " workspace; expected an object store that all 1 nodes reach, or a folder that they share"
    )


def test_a_full_disk_under_the_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of(monkeypatch, local_fs_capacity_threshold=0.0, local_fs_monitor_interval_ms=100):
        start_ray()
        with pytest.raises(ClusterError, match=r"^fit: a node's disk is full"):
            run_task(large, 2 * STORE_BYTES)


def large(size: int) -> bytes:
    return b"1" * size


def test_a_task_that_memory_never_suffices_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is always short of memory, Ray ends whoever works, and by itself would for ever."""
    with cluster_of(monkeypatch, memory_usage_threshold=0.0, memory_monitor_refresh_ms=100):
        start_ray()
        with pytest.raises(
            ClusterError, match=r"^fit: a node ran out of memory, also when this was tried 2 more times"
        ):
            run_task(endless)


def endless() -> None:
    while True:
        pass


def suicide(row: dict[str, Any]) -> list[dict[str, Any]]:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return [row]


def test_a_process_that_dies_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of(monkeypatch):
        start_ray()
        with pytest.raises(ClusterError, match=r"^merge: its process died, also when this was tried 2 more times"):
            list(stream([{"bucket": 0}], suicide, ask=MERGE))


def test_a_laptop_with_little_memory_left_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray._private.utils, "estimate_available_memory", lambda: LOCAL_OBJECT_STORE)
    start_ray()
    assert run_task(large, 1) == b"1"
    ray.shutdown()


def stuck(unit: dict[str, Any]) -> list[dict[str, Any]]:
    threading.Event().wait()
    return [unit]


def test_a_stream_in_which_nothing_moves_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start_ray()
    monkeypatch.setattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 3.0)
    with pytest.raises(ClusterError, match=r"^merge: nothing has moved"):
        list(stream([{"unit": 1}], stuck, ask=MERGE))
    ray.shutdown()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ObjectStoreFullError("much\ntoo much"), "predict: a node's object store is full: start its Ray with a larger"),
        (OutOfMemoryError("killed"), "predict: a node ran out of memory"),
        (WorkerCrashedError(), "predict: its process died"),
    ],
)
def test_ray_s_own_errors_say_stage_and_remedy(error: Exception, line: str) -> None:
    outer = RuntimeError("Ray Data stopped")
    outer.__cause__ = error
    for raised in (error, outer):
        found = said_error(raised, "predict")
        assert str(found).startswith(line)
        assert type(found) is ClusterError


def test_an_error_of_ours_is_raised_as_itself() -> None:
    ours = RefusedToPublishError("first line\nadded by Ray Data")
    outer = RayTaskError("work", "traceback", ours)
    found = said_error(outer, "predict")
    assert isinstance(found, RefusedToPublishError)
    assert str(found) == "first line"
    assert said_error(RuntimeError("a defect"), "predict") is None
    assert issubclass(ClusterError, InputError)


@pytest.mark.skipif(os.geteuid() != 0, reason="hiding a folder from one node takes root")
def test_a_folder_that_one_machine_does_not_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other node has an empty disk in the folder's place."""
    workspace = Workspace.create(str(tmp_path / "disk" / "ws"), SETTINGS)
    with cluster_of(monkeypatch) as cluster:
        ray_command = Path(sys.executable).with_name("ray")
        flags = f"--address={cluster.address} --num-cpus=1 --object-store-memory={STORE_BYTES} --block"
        hidden = f"mount -t tmpfs none {tmp_path / 'disk'} && exec {ray_command} start {flags}"
        node = subprocess.Popen(["unshare", "--mount", "sh", "-c", hidden], start_new_session=True)
        try:
            start_ray()
            deadline = time.monotonic() + START_S
            while len([found for found in ray.nodes() if found["Alive"]]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            with pytest.raises(ClusterError, match=r"ws: the node .* cannot read it: no workspace.json .* all 2 nodes"):
                start_ray(workspace)
        finally:
            for pid in processes(session=node.pid):
                kill(pid)
            node.wait()

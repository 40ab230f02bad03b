"""The local cluster: three nodes that come, are told of, and go, and nothing else that runs here goes with them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from cluster.local import MARK, NODES, Cluster
from mmbatch.drill.local_ray import processes
from mmbatch.errors import MmbatchError
from tests.cluster.running import ROOT, asked, wait_while

COMMAND = [sys.executable, "-m", "cluster.local"]


def cluster_command(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*COMMAND, command], cwd=folder, env=environment, capture_output=True, text=True)


def test_down_without_a_cluster_is_harmless(tmp_path: Path) -> None:
    done = cluster_command("down", tmp_path)
    assert (done.returncode, done.stderr) == (0, "no cluster is up here\n")


def test_down_ends_what_bears_the_mark_and_nothing_else(tmp_path: Path) -> None:
    """Processes of another cluster, of none, and of this one, with a child that does not know of it."""
    (tmp_path / "a").mkdir()
    sleep = "trap '' TERM; env -i sleep 600 & wait"
    ours, theirs = (
        subprocess.Popen(["sh", "-c", sleep], env=os.environ | {MARK: str(tmp_path / name)}, start_new_session=True)
        for name in ("a", "b")
    )
    cluster = Cluster(tmp_path / "a")
    wait_while(lambda: len(processes(session=ours.pid)) < 2)
    assert sorted(cluster.processes()) == sorted(processes(session=ours.pid))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.local.END_S", 0.5)
        assert cluster.down() == 0
    assert (ours.wait(), processes(session=ours.pid)) == (-signal.SIGKILL, [])
    assert not (tmp_path / "a").exists()
    assert theirs.poll() is None
    Cluster(tmp_path / "b").down()
    theirs.wait()


def test_a_node_that_does_not_start_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.local.STORE_BYTES", -1)
    cluster = Cluster(tmp_path / "state")
    with pytest.raises(MmbatchError, match="head did not start"):
        cluster.up()
    assert (cluster.processes(), cluster.state.exists()) == ([], False)


@pytest.mark.slow
def test_a_cluster_beside_another_one_comes_once_and_goes_alone(cluster: Cluster, tmp_path: Path) -> None:
    up = cluster_command("up", tmp_path)
    second = Cluster(tmp_path / ".cluster")
    try:
        assert (up.returncode, second.nodes()) == (0, len(NODES)), up.stderr
        before = sorted(second.processes())
        again = cluster_command("up", tmp_path)
        assert again.stderr.startswith(f"cluster is up already: {second.address()}\n")
        assert set(before) <= {*second.processes()}
        assert asked(second) == []
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{second.address()}/api/jobs/", timeout=30)
        files = (second.state / "ray").resolve()
    finally:
        down = cluster_command("down", tmp_path)
    assert down.stderr == "cluster down, 3 nodes ended\n"
    assert (second.processes(), second.state.exists(), files.exists()) == ([], False, False)
    assert cluster.nodes() == len(NODES)
    assert isinstance(asked(cluster), list)
    assert cluster_command("down", tmp_path).stderr == "no cluster is up here\n"

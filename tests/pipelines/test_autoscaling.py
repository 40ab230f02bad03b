"""Waits and refusals beside Ray's own autoscaler, whose machines are processes here (its fake provider)."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import get_node_ip_address

from mmbatch.drill.local_ray import kill, processes
from mmbatch.errors import ClusterError
from mmbatch.pipelines import capacity
from mmbatch.pipelines.capacity import machines, require
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.resources import Ask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray")]

START_S = 120.0
WORKER = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1}
CONFIG: dict[str, Any] = {
    "cluster_name": "processes",
    "max_workers": 2,
    "idle_timeout_minutes": 5,
    "upscaling_speed": 1,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "head_node_type": "ray.head.default",
    "head_node": {},
    "worker_nodes": {},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": WORKER,
    },
}


@pytest.fixture
def autoscaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A head without processors, that may have one machine with a GPU."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    CONFIG["provider"]["gcs_address"] = f"{get_node_ip_address()}:{port}"
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=0"]
    command += [f"--autoscaling-config={tmp_path / 'config.json'}", "--include-dashboard=false"]
    folder = tempfile.mkdtemp(prefix="ray-")  # its own: else every `ray.init` here would look for this head for ever
    command += [f"--object-store-memory={100 << 20}", "--disable-usage-stats", f"--temp-dir={folder}"]
    environment = os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    log = tmp_path / "head.log"
    with log.open("wb") as sink:
        started = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True, env=environment)
    try:
        monkeypatch.setenv("RAY_ADDRESS", address_in(log))
        start_ray()
        yield
    finally:
        ray.shutdown()
        while found := processes(session=started.pid):
            for pid in found:
                kill(pid)
            started.wait()
        shutil.rmtree(folder, ignore_errors=True)


def address_in(log: Path) -> str:
    """Where the head says that it listens."""
    deadline = time.monotonic() + START_S
    while "--address='" not in (text := log.read_text()):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return text.partition("--address='")[2].partition("'")[0]


@pytest.mark.usefixtures("autoscaling")
def test_machines_that_the_autoscaler_brings_are_waited_for_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(capacity, "say", said.append)
    monkeypatch.setattr(capacity, "INTERVAL_S", 0.5)
    monkeypatch.setattr(capacity, "GROW_S", 120.0)
    worker = Ask(stage="train", name="worker", gpus=1)  # the fake machines have no memory to ask for
    assert len(machines()) == 1
    require((worker, 1))
    assert len(machines()) == 2
    assert any("1 more is coming" in line for line in said)
    monkeypatch.setattr(capacity, "JOIN_S", 10.0)
    with pytest.raises(ClusterError, match="train: asks for 2 workers"):
        require((worker, 2))

"""Commands against a local cluster, as a person or a scheduler runs them, and what its API says of a job."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from cluster.local import Cluster
from tests.conftest import ROOT

PATIENCE_S = 120.0


def submit_command(*command: object, again: bool = False) -> list[str]:
    """`cluster.submit` of a job."""
    flags = ["--again"] if again else []
    return [sys.executable, "-m", "cluster.submit", *flags, "--", "python", "-m", *map(str, command)]


def run(cluster: Cluster, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | cluster.environment()
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def submit(cluster: Cluster, *command: object, again: bool = False) -> subprocess.CompletedProcess[str]:
    """A job from start to end: its log on stdout."""
    return run(cluster, submit_command(*command, again=again))


def ray_job(cluster: Cluster, *command: object) -> subprocess.CompletedProcess[str]:
    """Ray's own command line."""
    return run(cluster, [str(Path(sys.executable).with_name("ray")), "job", *map(str, command)])


def asked(cluster: Cluster, path: str = "", *, method: str = "GET") -> Any:
    """What the cluster's API says of its jobs, or of one; sooner than Ray's command line has started."""
    token = Path(cluster.environment()["RAY_AUTH_TOKEN_PATH"]).read_text()
    headers = {"Authorization": f"Bearer {token}"}
    request = Request(f"{cluster.address()}/api/jobs/{path}", headers=headers, method=method)
    with urlopen(request, timeout=30) as answer:
        return json.load(answer)


def jobs_of(cluster: Cluster, workspace: object) -> list[dict[str, Any]]:
    """All submissions whose command names the workspace, the oldest first."""
    found = [job for job in asked(cluster) if job["type"] == "SUBMISSION" and str(workspace) in job["entrypoint"]]
    return sorted(found, key=lambda job: job["start_time"])


def wait_while(left: Callable[[], Any]) -> None:
    """Look until nothing is left; `AssertionError` that says what, when it does not go."""
    deadline = time.monotonic() + PATIENCE_S
    while found := left():
        assert time.monotonic() < deadline, f"after {PATIENCE_S:.0f} s: {found}"
        time.sleep(0.1)

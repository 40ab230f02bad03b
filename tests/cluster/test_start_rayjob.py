import json
import runpy
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.rendering import KUBERAY, Manifest, one

SCRIPT = KUBERAY / "base/start_rayjob.py"
start_rayjob = runpy.run_path(str(SCRIPT), run_name="start_rayjob")
ApiError, RayJobs = start_rayjob["ApiError"], start_rayjob["RayJobs"]
copy_of, exit_code = start_rayjob["copy_of"], start_rayjob["exit_code"]

PATTERN = {
    "apiVersion": "ray.io/v1",
    "kind": "RayJob",
    "metadata": {"name": "mmbatch-nightly", "labels": {"a": "b"}, "uid": "1", "resourceVersion": "7"},
    "spec": {"suspend": True, "entrypoint": "python -m jobs.nightly"},
    "status": {"jobDeploymentStatus": "Suspended"},
}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
REFUSED = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "message": "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):",
}


def at_once(seconds: float) -> None:
    """Instead of a pause."""
    assert seconds == start_rayjob["EVERY_S"]


class Api:
    """A Kubernetes API that knows RayJobs: each look at a running one finds the next of `statuses`."""

    def __init__(self, statuses: list[dict[str, Any] | int]) -> None:
        self.jobs: dict[str, Any] = {"mmbatch-nightly": PATTERN}
        self.statuses = statuses
        self.tokens: set[str] = set()
        self.refuses: int | None = None
        self.away = 0

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        root = "/apis/ray.io/v1/namespaces/shop/rayjobs"
        assert path.startswith(root)
        if self.away:
            self.away -= 1
            return 500, {"message": "try later"}
        if self.refuses:
            return self.refuses, {"message": "rayjobs is forbidden"}
        if method == "POST":
            job = json.loads(body)
            if job["metadata"]["name"] in self.jobs:
                return 409, {"message": "already exists"}
            self.jobs[job["metadata"]["name"]] = job
            return 201, job
        name = path.removeprefix(f"{root}/")
        if name not in self.jobs:
            return 404, {"message": f'rayjobs.ray.io "{name}" not found'}
        if name == "mmbatch-nightly":
            return 200, PATTERN
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return (status, {"message": "try later"}) if isinstance(status, int) else (200, {"status": status})


@pytest.fixture
def api() -> Api:
    return Api([{}, {"jobDeploymentStatus": "Initializing"}, {"jobDeploymentStatus": "Running"}, DONE])


@pytest.fixture
def jobs(api: Api, tmp_path: Path) -> Iterator[Any]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply("GET", b"")

        def do_POST(self) -> None:
            self.reply("POST", self.rfile.read(int(self.headers["Content-Length"])))

        def reply(self, method: str, body: bytes) -> None:
            api.tokens.add(self.headers["Authorization"])
            code, found = api.answer(method, self.path, body)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's own output is enough."""

    (tmp_path / "namespace").write_text("shop")
    (tmp_path / "token").write_text("renewed\n")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield RayJobs(f"http://127.0.0.1:{server.server_port}", tmp_path, pause=at_once)
    server.shutdown()
    thread.join()
    server.server_close()


def start(jobs: Any) -> int:
    code: int = start_rayjob["start"](jobs, "mmbatch-nightly", today="20260131")
    return code


def test_a_copy_of_the_pattern_runs_and_its_success_is_the_result(api: Api, jobs: Any) -> None:
    assert start(jobs) == 0
    assert api.jobs["mmbatch-nightly-20260131"] == {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "mmbatch-nightly-20260131", "labels": {"a": "b"}},
        "spec": {"suspend": False, "entrypoint": "python -m jobs.nightly"},
    }
    assert PATTERN["spec"]["suspend"] is True  # type: ignore[index]
    assert api.tokens == {"Bearer renewed"}


def test_starting_it_twice_runs_it_once(api: Api, jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(jobs) == 0
    made = dict(api.jobs)
    assert start(jobs) == 0
    assert api.jobs == made
    assert "RayJob mmbatch-nightly-20260131: there already, its result counts" in capsys.readouterr().err


def test_the_exit_code_of_the_job_is_that_of_the_pod(api: Api, jobs: Any) -> None:
    api.statuses = [{"jobDeploymentStatus": "Retrying"}, REFUSED]
    assert start(jobs) == 3


def test_an_api_that_is_away_for_a_while_is_asked_again(api: Api, jobs: Any) -> None:
    api.statuses = [{}, *[503] * (start_rayjob["PATIENCE"] - 1), {}, *[503] * (start_rayjob["PATIENCE"] - 1), DONE]
    assert start(jobs) == 0


def test_an_api_that_stays_away_is_given_up(api: Api, jobs: Any) -> None:
    api.statuses = [503]
    with pytest.raises(ApiError, match="503 try later"):
        start(jobs)


def test_an_api_that_is_away_at_first_is_asked_again(api: Api, jobs: Any) -> None:
    api.away = 3
    assert start(jobs) == 0
    assert api.away == 0


def test_a_pattern_that_is_not_there_is_named(jobs: Any) -> None:
    with pytest.raises(ApiError, match=r'404 rayjobs\.ray\.io "night" not found'):
        start_rayjob["start"](jobs, "night", today="20260131")


def test_a_missing_right_is_an_error_at_once(api: Api, jobs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    api.refuses = 403
    with pytest.raises(ApiError, match="403 rayjobs is forbidden"):
        start(jobs)
    assert "asking again" not in capsys.readouterr().err


def test_an_address_without_an_api_is_an_error(tmp_path: Path) -> None:
    for name in ("namespace", "token"):
        (tmp_path / name).write_text("shop")
    with pytest.raises(ApiError, match=r"GET http://127\.0\.0\.1:9/"):
        RayJobs("http://127.0.0.1:9", tmp_path, pause=at_once).get("mmbatch-nightly")


def test_a_name_that_kuberay_refuses_is_an_error() -> None:
    longer = PATTERN | {"metadata": {"name": "m" * 39}}
    with pytest.raises(ApiError, match="48 characters, expected at most 47"):
        copy_of(longer, today="20260131")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (DONE, 0),
        (REFUSED, 3),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, 1),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, 1),
        ({"jobStatus": "FAILED", "message": "failed with exit code 0"}, 1),
    ],
)
def test_exit_codes(status: dict[str, Any], code: int) -> None:
    assert exit_code(status) == code


def test_outside_a_pod_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(start_rayjob["main"].__globals__, "ACCOUNT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["start_rayjob.py", "mmbatch-nightly"])
    assert start_rayjob["main"]() == 5
    assert capsys.readouterr().err.endswith("namespace: no service account here, expected a pod's\n")


def test_the_pod_has_the_script_as_it_is_here(production: list[Manifest]) -> None:
    pod = one(production, "CronJob", "mmbatch-nightly")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    mounted = one(production, "ConfigMap", pod["volumes"][0]["configMap"]["name"])["data"]
    assert mounted == {SCRIPT.name: SCRIPT.read_text()}
    folder = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert pod["containers"][0]["command"] == ["python", f"{folder}/{SCRIPT.name}"]


def test_patterns_of_the_manifests_can_be_copied(manifests: list[Manifest]) -> None:
    for pattern in (each for each in manifests if each["kind"] == "RayJob"):
        made = yaml.safe_load(yaml.safe_dump(copy_of(pattern, today="20260131")))
        assert made["spec"] == pattern["spec"] | {"suspend": False}

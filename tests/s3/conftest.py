"""An S3 server of its own for these tests, moto's or Ceph's, a proxy with faults before it, and a bucket a test."""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.conftest import ROOT
from tests.s3.proxy import FaultProxy, no_faults, running

KEY, SECRET = "key-id-of-a-test", "secret-of-a-test"
KINDS = ("moto", "rgw")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--s3-server", choices=KINDS, default="moto", help="moto's server, or Ceph's RADOS gateway")


@dataclass(frozen=True)
class Server:
    """A running S3 server."""

    kind: str
    url: str


def environment(url: str, **changes: str) -> dict[str, str]:
    """All that a job is told of the store."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    } | changes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started once a session, by whichever test needs it."""
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as started:
        yield started


@contextmanager
def moto_server(log: Path) -> Iterator[Server]:
    """Moto's server in a process of its own, which holds everything in memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _wait_for(port, process)
            yield Server("moto", f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise RuntimeError(f"moto's server ended with {process.returncode}")


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("rgw"), free_port()
    ports = (port, free_port(), free_port())
    script = [str(ROOT / "tests/s3/start_rgw.sh"), str(folder / "ceph"), *map(str, ports)]
    log = (folder / "log").open("wb")
    keys = os.environ | environment("")
    pipe = subprocess.PIPE
    with log, subprocess.Popen(script, stdin=pipe, stdout=pipe, stderr=log, env=keys) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert any(line == b"ready\n" for line in process.stdout), (folder / "log").read_text()
            yield Server("rgw", f"http://127.0.0.1:{port}")
        finally:
            process.stdin.close()
            process.wait()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The server that `--s3-server` names."""
    kind = request.config.getoption("--s3-server", default="moto")
    found: Server = request.getfixturevalue(kind)
    return found


@pytest.fixture(scope="session")
def proxy(server: Server) -> Iterator[FaultProxy]:
    with running(FaultProxy(server.url)) as found:
        yield found


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Points this process at an endpoint, by the environment alone; returns the variables."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def point(url: str, **changes: str) -> dict[str, str]:
        variables = environment(url, **changes)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        return variables

    return point


@pytest.fixture
def bucket(server: Server, use: Callable[..., dict[str, str]]) -> str:
    """A new bucket, `s3://NAME`, of the server, which this process now uses directly."""
    use(server.url)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def faulty(bucket: str, proxy: FaultProxy, use: Callable[..., dict[str, str]]) -> Iterator[FaultProxy]:
    """The proxy, which this process now uses for the bucket; the test sets its plan."""
    proxy.injected.clear()
    use(proxy.url)
    yield proxy
    proxy.plan = no_faults

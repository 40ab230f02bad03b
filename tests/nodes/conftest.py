"""Machines, an object store that all of them reach, and a line at the end that says what they were."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.machines import Machines, machines
from tests.nodes.networks import KINDS, bridges_permitted, network
from tests.s3.conftest import Server, bucket, moto, rgw, server, use

__all__ = ["bucket", "moto", "rgw", "server", "use"]

_USED: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", choices=KINDS, help="of the machines; default: a bridge where that is permitted")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in sorted(_USED):
        terminalreporter.write_line(line)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Machines]:
    """A head and two worker nodes, on the network that `--network` or the test's parameter names."""
    kind = getattr(request, "param", None) or request.config.getoption("--network", default=None)
    if kind == "bridge" and not bridges_permitted():
        pytest.skip("network namespaces are not permitted here")
    with network(kind) as found, machines(found, server, tmp_path, workers=2) as started:
        disks = "disks of their own" if started.own_disks else "one disk: mount namespaces are not permitted"
        _USED.add(f"machines: {found.kind}, {disks}, on {server.kind}'s object store")
        yield started

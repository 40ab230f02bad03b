"""The command, without a browser."""

import json
import socket
from pathlib import Path

import pytest

from mmbatch.app.parts import plain
from tests.conftest import run_job
from tests.published_tables import new_workspace


def refused(*flags: object) -> str:
    done = run_job("app", *flags)
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def test_a_workspace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no workspace.json there" in refused("--workspace", tmp_path / "nowhere")


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path).uri
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot listen on 127.0.0.1" in refused("--workspace", workspace, "--port", port)
    assert "--port 70000" in refused("--workspace", workspace, "--port", 70_000)


def test_a_place_of_images_that_is_none_is_refused(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path).uri
    assert "--images-from" in refused("--workspace", workspace, "--images-from", "ftp://host")


def test_a_dry_run_says_what_there_is_and_serves_nothing(tmp_path: Path) -> None:
    done = run_job("app", "--workspace", new_workspace(tmp_path).uri, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["work"] == {"predictor": None, "products": 0}


@pytest.mark.parametrize("text", ["a*b_c", "`x`", "$5 and $6", ":red[x]", "<b>", "1. one", "\\", "a > b | c ~~d~~"])
def test_signs_of_markdown_are_escaped(text: str) -> None:
    assert plain(text).replace("\\", "") == text.replace("\\", "")
    assert all(
        before == "\\" for before, sign in zip(plain(text), plain(text)[1:], strict=False) if sign in "*_`$:[<>|~."
    )

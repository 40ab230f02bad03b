"""The command, and workspaces in which there is little to see yet."""

import json
import socket
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from mmbatch.app.parts import plain
from tests.app.driving import Visit, served
from tests.conftest import run_job
from tests.published_tables import add_run, new_workspace, prediction, publish


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


def test_an_empty_workspace_says_on_each_page_what_to_run(tmp_path: Path, browser: Browser) -> None:
    with served(new_workspace(tmp_path).uri) as address:
        visit = Visit(browser, address)
        visit.sees("run python -m jobs.predict, or jobs.pipeline")
        for name, told in (
            ("Try", "jobs.train_late_fusion"),
            ("Review", "run python -m jobs.review"),
            ("Runs", "run python -m jobs.pipeline"),
        ):
            visit.go(name)
            visit.sees(told)
        assert visit.complaints == []


def test_titles_and_categories_are_text(tmp_path: Path, browser: Browser) -> None:
    hostile = (
        "<script>window.hit=1</script><img src=x onerror=window.hit=1> **bold** [a](http://evil.example) $x$ :smile:"
    )
    workspace = new_workspace(tmp_path)
    publish(workspace, prediction("p1", category=hostile, label=[hostile], decided_category=hostile))
    add_run(workspace, "<b>run</b>", minute=0)
    with served(workspace.uri) as address:
        visit = Visit(browser, address)
        visit.sees(hostile)
        visit.go("Runs")
        visit.sees("nightly <b>run</b>")
        assert visit.page.evaluate("window.hit") is None
        assert visit.complaints == []


@pytest.mark.parametrize("text", ["a*b_c", "`x`", "$5 and $6", ":red[x]", "<b>", "1. one", "\\", "a > b | c ~~d~~"])
def test_signs_of_markdown_are_escaped(text: str) -> None:
    assert plain(text).replace("\\", "") == text.replace("\\", "")
    assert all(
        before == "\\" for before, sign in zip(plain(text), plain(text)[1:], strict=False) if sign in "*_`$:[<>|~."
    )

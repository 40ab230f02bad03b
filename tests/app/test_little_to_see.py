"""Workspaces in which there is little to see yet, in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.app.driving import Visit, served
from tests.published_tables import add_run, new_workspace, prediction, publish

pytestmark = pytest.mark.slow


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

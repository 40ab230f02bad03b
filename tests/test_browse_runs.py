from pathlib import Path

import pytest

from mmbatch.browse_runs import ledger, outcomes, page, pages
from mmbatch.errors import InputError
from tests.published_tables import add_run, new_workspace


def test_the_newest_run_comes_first_with_its_values(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    assert ledger(workspace) == []
    add_run(workspace, "early", minute=0)
    add_run(workspace, "late", minute=1, job="predict")
    found = ledger(workspace)
    assert [run["run_id"] for run in found] == ["late", "early"]
    assert found[0]["counts"] == {}


def test_pages_are_those_of_a_run_and_nothing_else_is_read(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    folder = Path(workspace.path("reports", "one"))
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<h1>ä</h1>")
    (folder / "metrics.json").write_text("{}")
    assert pages(workspace, "one") == ["report.html"]
    assert page(workspace, "one", "report.html") == "<h1>ä</h1>"
    assert pages(workspace, "two") == []
    for name in ("metrics.json", "../../workspace.json", ""):
        with pytest.raises(InputError, match="no page"):
            page(workspace, "one", name)


def test_outcomes_are_the_numbers_of_two_levels() -> None:
    counts = {"rows": 3, "state": "published", "reasons": {"new": 2, "why": "x"}, "ok": True, "deep": {"a": {"b": 1}}}
    assert outcomes(counts) == {"rows": 3, "reasons.new": 2}

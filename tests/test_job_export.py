"""`jobs.export` as a user runs it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmbatch.workspace import Workspace
from tests.conftest import run_job, run_json
from tests.published_tables import add_changes, add_run, change, new_workspace, prediction, publish


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = new_workspace(tmp_path)
    publish(made, *(prediction(f"p{number}") for number in range(20)))
    add_run(made, "one", minute=1)
    add_changes(made, change("p1", "x", "y", "two"), change("p2", "x", "y", "two"))
    add_run(made, "two", minute=2)
    return made


def test_everything_and_then_what_changed(workspace: Workspace, tmp_path: Path) -> None:
    flags = ("export", "--workspace", workspace.uri)
    done = run_json(*flags, "--out", tmp_path / "all.parquet")
    assert (done["rows"], done["version"], done["until"]) == (20, 1, "two")
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 20
    out = tmp_path / "changes.jsonl"
    told = run_job(*flags, "--out", out, "--changes-since", "one", "--columns", "product_id", "category_after")
    assert "export             2 / 2 changes  100%" in told.stderr
    assert f"export     2 rows written to {out}; what comes after: --changes-since two" in told.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["product_id"] for row in rows) == ["p1", "p2"]
    assert rows[0] == {"product_id": rows[0]["product_id"], "category_after": "y"}


def test_a_dry_run_writes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    flags = ("export", "--workspace", workspace.uri, "--out", tmp_path / "a.csv", "--dry-run")
    work = run_json(*flags)["work"]
    assert (work["rows"], len(work["columns"])) == (20, 20)
    work = run_json(*flags, "--changes-since", "one", "--columns", "product_id")["work"]
    assert (work["rows"], work["columns"]) == (2, ["product_id"])
    assert not (tmp_path / "a.csv").exists()


def test_bad_flags_are_one_line_and_leave_the_file(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("earlier")
    flags = ("export", "--workspace", workspace.uri, "--out")
    for more, line in (
        ((out, "--changes-since", "typo"), "the last ones are two (nightly), one (nightly)"),
        ((out, "--columns", "price"), "expected each at most once, of product_id"),
        ((f"{workspace.uri}/a.csv",), "found a place inside the workspace"),
        ((tmp_path / "none" / "a.csv",), "a.csv: cannot be written: No such file or directory"),
    ):
        refused = run_job(*flags, *more)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert [line in told for told in refused.stderr.splitlines() if told.startswith("error: ")] == [True]
    assert out.read_text() == "earlier"

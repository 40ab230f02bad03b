from pathlib import Path

import pytest

from mmbatch.errors import CountMismatchError
from mmbatch.runs import Run, last_run, tie_out
from mmbatch.workspace import Settings, Workspace


def test_the_ledger_gives_back_the_last_run_of_a_job(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))
    assert last_run(workspace, "ingest") is None
    Run(workspace=workspace, job="ingest", settings={"a": 1}).finish({"rows": 1})
    entry = Run(workspace=workspace, job="ingest", settings={"a": 2}).finish({"rows": 2}, {"catalog": 7})
    Run(workspace=workspace, job="predict").finish({})
    last = last_run(workspace, "ingest")
    assert last is not None
    assert (last["run_id"], last["settings"], last["counts"]) == (entry["run_id"], {"a": 2}, {"rows": 2})
    assert last["versions"] == {"catalog": 7}


def test_counts_that_do_not_tie_out_stop_the_run() -> None:
    tie_out("ingest", 3, {"new": 1, "rejected": 2})
    with pytest.raises(CountMismatchError, match=r"ingest: 3 rows in, but .* makes 2"):
        tie_out("ingest", 3, {"new": 1, "rejected": 1})

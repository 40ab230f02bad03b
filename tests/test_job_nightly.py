"""`jobs.nightly`, `jobs.rollback` as a scheduler runs them: flags, exit codes, what stands on stdout."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch.predictions import Predictions
from mmbatch.workspace import Workspace
from tests.conftest import run_job, run_json
from tests.test_whole_job import Finished


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ((), "error: --source is missing: tonight's snapshot or feed; or name a refused run by --approve"),
        (("--gate", "changes=0.1"), "changes"),
        (("--gate", "changed=2"), "error: --gate changed=2: expected a share, 0 to 1"),
        (("--source", "x.csv", "--approve", "run"), "error: --approve run --source x.csv: expected one of them"),
        (("--source", "x.csv", "--price-per-hour", "3"), "error: --price-per-hour 3: expected --dry-run with it"),
        (("--source", "nowhere/catalog.csv"), "nowhere/catalog.csv: no such file or folder"),
    ],
)
def test_a_wrong_flag_is_one_line(finished: Finished, flags: tuple[str, ...], line: str) -> None:
    done = run_job("nightly", "--workspace", finished[0], *flags)
    assert done.returncode == 2
    assert line in done.stderr.splitlines()[-1]


def test_a_workspace_without_a_predictor_cannot_have_a_night(tmp_path: Path, sample_file: Path) -> None:
    (tmp_path / "workspace.json").write_text(
        json.dumps({"format": 3, "preset": "sample", "level": 2, "seed": 0, "buckets": 4})
    )
    done = run_job("nightly", "--workspace", tmp_path, "--source", sample_file)
    assert done.returncode == 2
    assert "no predictor there; `jobs.train_late_fusion` makes one" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_nights_as_a_scheduler_sees_them(finished: Finished, sample_file: Path, tmp_path: Path) -> None:
    """Planned, refused, approved, rolled back, and published with new texts that an encoder has to see."""
    workspace = tmp_path / "workspace"
    shutil.copytree(finished[0], workspace)
    rows = pq.read_table(sample_file).to_pandas()
    rows.loc[:30, "title"] = [f"porcelain teapot number {number}" for number in range(31)]
    (tmp_path / "night").mkdir()
    table = pa.Table.from_pandas(rows, schema=pq.read_schema(sample_file), preserve_index=False)
    pq.write_table(table, tmp_path / "night" / "catalog.parquet")
    common = ("--workspace", workspace, "--source", tmp_path / "night")
    plan = run_json("nightly", *common, "--dry-run", "--price-per-hour", 3)
    encoded = {name: found["compute"] for name, found in plan["work"]["encode"].items()}
    assert sorted(encoded.values()) == [0, plan["work"]["predict"]["predicted"]]
    refused = run_job("nightly", *common, "--gate", "changed=0", "smallest=1", "--json")
    assert refused.returncode == 3
    assert "change their category; the limit is 0 %" in refused.stderr
    entry = json.loads(refused.stdout)
    assert entry["counts"]["state"] == "refused"
    assert entry["counts"]["extract"]["computed"] == sum(encoded.values())
    before = Predictions(workspace=Workspace.open(str(workspace))).table.version()
    approved = run_json("nightly", "--workspace", workspace, "--approve", entry["run_id"])
    assert approved["counts"]["state"] == "approved"
    assert run_json("rollback", "--workspace", workspace)["counts"]["taken_back"] == approved["run_id"]
    assert Predictions(workspace=Workspace.open(str(workspace))).table.version() == before + 2
    again = run_job("rollback", "--workspace", workspace)
    assert again.returncode == 2
    published = run_json("nightly", *common, "--gate", "smallest=1000000")
    assert published["counts"]["state"] == "published"
    assert published["counts"]["reasons"] == approved["counts"]["reasons"]

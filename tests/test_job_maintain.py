"""Maintenance as a user runs it, and killed wherever it can be."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.maintain import Maintain, main
from mmbatch import schema
from mmbatch.catalog import Catalog, digest
from mmbatch.corrections import Correction, Corrections
from mmbatch.errors import InputError
from mmbatch.pipelines import maintain as module
from mmbatch.runs import last_run
from mmbatch.workspace import Settings, Workspace
from tests.conftest import ROOT, run_job, run_json

MAINTAIN_HERE = """
import sys
from datetime import timedelta
from mmbatch.errors import InputError
from mmbatch.pipelines import maintain as module
from mmbatch.workspace import Workspace
module.start_ray = lambda *_: None
module.stream = lambda units, work, **_: (row for unit in units for row in work(unit))
with Workspace.open(sys.argv[1]).writing("maintain") as workspace:
    module.maintain(workspace, keep=timedelta(0))
"""
"""The job without Ray and with an empty window, so that old files go in the same run."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two tables in two buckets of five files each; half of the images belong to no product."""
    made = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=2))
    catalog = Catalog(workspace=made)
    for bucket in range(2):
        for number in range(5):
            hashes = [digest(f"{bucket} {number} {row}".encode()) for row in range(4)]
            images = [{"image_hash": name, "image": name.encode() * 50, "bucket": bucket} for name in hashes]
            products = [{"product_id": name, "image_hash": name, "bucket": bucket} for name in hashes[:2]]
            for table, rows in ((catalog.images, images), (catalog.table, products)):
                entry = table.write_file(pa.Table.from_pylist(rows, schema=table.schema), bucket=bucket)
                table.commit([entry], app_id=f"{bucket}-{number}")
    return made


def rows_of(workspace: Workspace) -> dict[str, Counter[Any]]:
    """Rows of both tables, of the images only those that a product has."""
    catalog = Catalog(workspace=workspace)
    products = catalog.keys()["image_hash"].to_pylist()
    images = [row for row in catalog.images.read().to_pylist() if row["image_hash"] in products]
    found = {"images": images, "catalog": catalog.table.read(schema.CATALOG.names).to_pylist()}
    return {name: Counter(tuple(map(str, row.values())) for row in rows) for name, rows in found.items()}


def files_of(workspace: Workspace) -> dict[str, int]:
    """Parquet files that lie in each table's folder."""
    return {name: len(list(Path(workspace.path(name)).glob("bucket=*/*"))) for name in ("images", "catalog")}


@pytest.mark.slow
def test_the_job_joins_files_and_then_finds_nothing_to_do(workspace: Workspace) -> None:
    before = rows_of(workspace)
    planned = run_job("maintain", "--workspace", workspace.uri, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert '"files_to_join": 10' in planned.stderr
    assert files_of(workspace) == {"images": 10, "catalog": 10}
    result = run_json("maintain", "--workspace", workspace.uri)
    images = result["counts"]["tables"]["images"]
    assert (images["files_before"], images["files_after"], images["rows_before"]) == (10, 2, 40)
    assert (images["rows_after"], images["rows_dropped"], images["files_deleted"]) == (20, 20, 0)
    assert rows_of(workspace) == before
    assert files_of(workspace) == {"images": 12, "catalog": 12}
    entry = last_run(workspace, "maintain")
    assert entry is not None
    assert entry["counts"] == result["counts"]
    there = sorted((path, path.stat().st_mtime_ns) for path in Path(workspace.uri).rglob("*"))
    again = run_job("maintain", "--workspace", workspace.uri)
    assert (again.returncode, again.stderr) == (0, "maintain   nothing to do\n")
    assert sorted((path, path.stat().st_mtime_ns) for path in Path(workspace.uri).rglob("*")) == there


@pytest.mark.parametrize("days", [0, 0.04, 31, float("nan")])
def test_a_window_that_is_too_short_or_too_long_is_refused(workspace: Workspace, days: float) -> None:
    with pytest.raises(InputError, match=rf"^--keep-days {days:g}: expected 1/24 \(0\.0417, one hour\) to 30$"):
        main(Maintain(workspace=workspace.uri, keep_days=days))


SOON = ("file.after:2", "commit.after:1", "vacuum.after:1")
LATER = ("file.before:1", "commit.before:1", "commit.before:2", "commit.after:2", "commit.before:3", "commit.after:3")
POINTS = [
    *SOON,
    *(pytest.param(point, marks=pytest.mark.slow) for point in (*LATER, "vacuum.before:1", "vacuum.after:2")),
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_rows_are_the_same_and_the_next_run_ends_the_work(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    before, environment = rows_of(workspace), os.environ | {"MMBATCH_FAILPOINT": point}
    killed = subprocess.run([sys.executable, "-c", MAINTAIN_HERE, workspace.uri], cwd=ROOT, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert rows_of(workspace) == before
    monkeypatch.setattr(module, "start_ray", lambda *_: None)
    monkeypatch.setattr(module, "stream", lambda units, work, **_: (row for unit in units for row in work(unit)))
    with workspace.writing("maintain") as owned:
        module.maintain(owned, keep=timedelta(0))
    assert rows_of(workspace) == before
    assert files_of(workspace) == {"images": 2, "catalog": 2}
    assert Catalog(workspace=workspace).images.rows() == 20


@pytest.mark.parametrize("meanwhile", [0, 1])
def test_corrections_are_joined_unless_a_person_adds_one_meanwhile(
    workspace: Workspace, meanwhile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrections = Corrections(workspace=workspace)
    said = Correction(product_id="p", label=["Toys"], label_before=None, author="ada", run_id=None)
    for _ in range(5):
        corrections.add(said)

    def written_meanwhile(units: list[Any], work: Callable[[Any], list[Any]], **_: object) -> Iterator[Any]:
        if "label_before" in work.keywords["at"].table.schema.names:
            for _ in range(meanwhile):
                corrections.add(said)
        yield from (row for unit in units for row in work(unit))

    monkeypatch.setattr(module, "start_ray", lambda *_: None)
    monkeypatch.setattr(module, "stream", written_meanwhile)
    with workspace.writing("maintain") as owned:
        counts = module.maintain(owned, keep=timedelta(days=1))["counts"]["tables"]["corrections"]
    assert corrections.table.rows() == 5 + meanwhile
    assert (counts["rows_before"], counts["rows_after"]) == (5, 5)
    assert len(corrections.table.files()) == (6 if meanwhile else 1)
    assert counts["files_after"] == (5 if meanwhile else 1)

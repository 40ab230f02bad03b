"""Runs jobs as a user does: `python -m jobs.NAME` in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmbatch.sample import write_sample
from mmbatch.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
ROWS = 500

torch.set_num_threads(1)  # the networks here are tiny: more threads only wait for each other

Runner = Callable[..., subprocess.CompletedProcess[str]]


def run_job(job: str, *flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"jobs.{job}", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)


def run_json(job: str, *flags: object) -> dict[str, Any]:
    done = run_job(job, *flags, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="session")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample catalog as one Parquet file."""
    return Path(write_sample(str(tmp_path_factory.mktemp("source")), rows=ROWS, seed=3)[0])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, sample_file: Path) -> tuple[Path, dict[str, Any]]:
    """A workspace after the whole job, and what the job printed as JSON. Tests read it and leave it as it is."""
    workspace = tmp_path_factory.mktemp("finished") / "workspace"
    return workspace, run_json("pipeline", "--workspace", workspace, "--source", sample_file)


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as CSV and returns the file."""

    def write(rows: list[dict[str, Any]], name: str = "catalog.csv") -> Path:
        header = list(rows[0])
        lines = [",".join(header), *(",".join(str(row[column]) for column in header) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but training and encoding does its tasks in this process, one after the other, without Ray."""
    do_in_process(monkeypatch)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A small workspace (`tests.published_shop`). Tests read it and leave it as it is."""
    from tests.published_shop import publish_shop

    with pytest.MonkeyPatch.context() as monkeypatch:
        do_in_process(monkeypatch)
        return publish_shop(tmp_path_factory.mktemp("shop"))


def do_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `in_process` is."""
    from mmbatch.pipelines import copy_vectors, extract, ingest, intake, predict, publish, replay, rollback

    for module in (copy_vectors, intake, predict, publish):
        monkeypatch.setattr(module, "stream", lambda units, work, **_: (row for unit in units for row in work(unit)))
    monkeypatch.setattr(intake, "count_attempts", lambda: None)
    monkeypatch.setattr(intake, "begun", lambda *_: 1)
    for name in ("share", "shared"):
        monkeypatch.setattr(intake, name, lambda value: value)
    for module in (extract, ingest, predict, replay, rollback):
        monkeypatch.setattr(module, "start_ray", lambda *_: None)


def read_source(file: Path) -> pa.Table:
    return pq.read_table(file)

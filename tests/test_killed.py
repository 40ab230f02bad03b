"""Killing the whole job anywhere and starting it again ends in the same predictions."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mmbatch.predictions import Predictions
from mmbatch.tables import Table
from mmbatch.workspace import Workspace
from tests.conftest import ROOT, run_job

STAGES = [
    "read ",
    "merge ",
    "finetune   ngram-text: 1",
    "finetune   small-image: 1",
    "extract ",
    "head ",
    "late ",
    "predict ",
]
"""Beginnings of lines that the job prints while or after it does something."""


def run_until(line: str, *flags: object) -> bool:
    """Start the job, kill it with all its processes when it prints a line that begins so; False when it never did."""
    command = [sys.executable, "-m", "jobs.pipeline", *map(str, flags)]
    job = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stderr is not None
    with job.stderr:
        killed = any(found.startswith(line) for found in job.stderr)
        if killed:
            os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    return killed


def published(workspace: Path) -> pa.Table:
    table: Table = Predictions(workspace=Workspace.open(str(workspace))).table
    return table.read().drop_columns("run_id").sort_by("product_id")


@pytest.mark.slow
def test_a_job_that_is_killed_in_every_stage_ends_in_the_same_predictions(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]], sample_file: Path
) -> None:
    flags = ("--workspace", tmp_path / "w", "--source", sample_file)
    assert [stage for stage in STAGES if not run_until(stage, *flags)] == []
    assert run_job("pipeline", *flags).returncode == 0
    assert published(tmp_path / "w").equals(published(finished[0]))

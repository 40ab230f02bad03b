import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmbatch import progress
from mmbatch.progress import FORMAT, Progress, check_format, say
from mmbatch.runs import Run
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job


@pytest.mark.parametrize(
    ("done", "seconds", "expected"),
    [
        (1_200, 2.0, "extract        1,200 / 3,000 products   40%  600/s  3 s left"),
        (3, 2.0, "extract            3 / 3,000 products    0%  1.5/s  1,998 s left"),
        (0, 2.0, "extract            0 / 3,000 products    0%  0.0/s  inf s left"),
        (3_000, 2.0, "extract        3,000 / 3,000 products  100%  1,500/s  2.0 s"),
    ],
)
def test_a_line_has_done_total_rate_and_time_left(done: int, seconds: float, expected: str) -> None:
    progress = Progress("extract", 3_000, "products")
    progress.done = done
    assert progress.line(seconds) == expected


def test_the_rate_is_that_of_what_was_done_since_the_start() -> None:
    progress = Progress("train", 300, "steps", done=100)
    progress.done = 120
    assert progress.line(2.0) == "train            120 / 300 steps   40%  10/s  18 s left"


def test_the_end_is_always_said(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("extract", 2, "products")
    progress.advance(1)
    assert capsys.readouterr().err == ""
    progress.advance(1)
    assert "2 / 2 products  100%" in capsys.readouterr().err


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """Lines are JSON objects, and a run has begun; gives back what was said."""
    monkeypatch.setenv(FORMAT, "json")
    monkeypatch.setattr(progress, "_run", {"run": "20260131T020000-1a2b3c", "job": "ingest"})
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("line", "level", "stage", "message"),
    [
        ("ingest     nothing new in /data/tonight", "info", "ingest", "nothing new in /data/tonight"),
        ("head       concatenation  30 / 120 steps", "info", "head", "concatenation  30 / 120 steps"),
        ("quarantine 12 entries written to a.csv", "info", "quarantine", "12 entries written to a.csv"),
        ("error: --source x: no such file", "error", None, "--source x: no such file"),
        ("warning: cannot renew the claim", "warning", None, "cannot renew the claim"),
        ("interrupted: the same command goes on", "info", None, "interrupted: the same command goes on"),
        ("two words and more of them", "info", None, "two words and more of them"),
        ("\nmodel  F1\ntext  0.8\n", "info", None, "model  F1\ntext  0.8"),
        ("evaluate   Müsli “süß”", "info", "evaluate", "Müsli “süß”"),
        ("", "info", None, ""),
    ],
)
def test_a_line_is_one_json_object(
    as_json: Callable[[], list[dict[str, Any]]], line: str, level: str, stage: str | None, message: str
) -> None:
    before = datetime.now(UTC)
    say(line)
    (said,) = as_json()
    assert before - timedelta(seconds=1) < datetime.fromisoformat(said.pop("time")) <= datetime.now(UTC)
    run = {"run": "20260131T020000-1a2b3c", "job": "ingest"}
    assert said == {"level": level, **run, "stage": stage, "message": message}


def test_progress_has_its_numbers_beside_the_sentence(as_json: Callable[[], list[dict[str, Any]]]) -> None:
    progress = Progress("extract", 3_000, "products")
    progress.done = 1_200
    say(progress.line(2.0))
    progress.done = 0
    say(progress.line(2.0))
    first, nothing = as_json()
    assert (first["stage"], first["message"]) == ("extract", "1,200 / 3,000 products   40%  600/s  3 s left")
    assert {name: first[name] for name in ("done", "total", "unit", "per_s", "seconds", "seconds_left")} == {
        "done": 1_200, "total": 3_000, "unit": "products", "per_s": 600.0, "seconds": 2.0, "seconds_left": 3.0,
    }  # fmt: skip
    assert nothing["seconds_left"] is None  # JSON has no infinity


def test_the_numbers_come_out_of_a_worker(as_json: Callable[[], list[dict[str, Any]]]) -> None:
    say(pickle.loads(pickle.dumps(Progress("extract", 3_000, "products", done=5).line(2.0))))
    assert as_json()[0]["done"] == 5


def test_lines_name_the_run_that_has_begun_last(as_json: Callable[[], list[dict[str, Any]]], tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))
    night = Run(workspace=workspace, job="nightly")
    say("night      begins")
    ingest = Run(workspace=workspace, job="ingest")
    say("ingest     begins")
    night.speak()
    say("night      goes on")
    assert [(said["run"], said["job"]) for said in as_json()] == [
        (run.run_id, run.job) for run in (night, ingest, night)
    ]


def test_without_the_variable_lines_are_plain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting in ("", None):
        monkeypatch.delenv(FORMAT, raising=False) if setting is None else monkeypatch.setenv(FORMAT, setting)
        check_format()
        say("ingest     begins")
        assert capsys.readouterr().err == "ingest     begins\n"


def test_a_job_says_its_error_as_json(tmp_path: Path) -> None:
    done = run_job("ingest", "--workspace", tmp_path / "w", "--source", tmp_path / "nowhere.csv", MMBATCH_LOG="json")
    assert done.returncode == 2
    said = json.loads(done.stderr.splitlines()[-1])
    assert (said["level"], said["run"]) == ("error", None)
    assert "nowhere.csv: no such file or folder" in said["message"]


def test_an_unknown_form_of_lines_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_job("ingest", "--workspace", tmp_path / "w", "--source", tmp_path, MMBATCH_LOG="yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: MMBATCH_LOG=yaml: expected json, or no such variable, for plain lines"]

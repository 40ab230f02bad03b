"""Explanation, the paper's tables and the review queue of a finished workspace, as a user asks for them."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmbatch.predictions import Predictions
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job, run_json

Finished = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def copy(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(finished[0], tmp_path_factory.mktemp("explained") / "workspace")


def predictions(workspace: Path, *columns: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Predictions(workspace=Workspace.open(str(workspace))).table.read(columns).to_pylist()
    return rows


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_prediction_is_decided_and_those_for_review_are_explained(finished: Finished) -> None:
    rows = predictions(finished[0], "category", "decision", "decided_category", "modality_text", "modality_fused")
    assert {row["decision"] for row in rows} <= {"accepted", "backed_off", "review"}
    for row in rows:
        assert (row["decided_category"] == row["category"]) == (row["decision"] == "accepted")
        assert (row["modality_text"] is not None) == (row["decision"] == "review")
    counts = finished[1]["evaluate"]["counts"]
    assert sum(row["products"] for row in counts["decisions"]) == next(
        row["rows"] for row in counts["table"] if (row["model"], row["split"]) == ("late fusion", "test")
    )
    assert 0 <= counts["calibration_error"]["after"] < 0.5


@pytest.mark.slow
def test_all_predictions_are_explained_on_request_and_nothing_else_changes(copy: Path) -> None:
    before = {row["product_id"]: row for row in predictions(copy, "product_id", "category", "confidence")}
    counts = run_json("predict", "--workspace", copy, "--explain", "all")["counts"]
    assert counts["predicted"] + counts["unchanged"] == len(before)
    rows = predictions(
        copy, "product_id", "category", "confidence", "modality_text", "modality_image", "modality_fused"
    )
    for row in rows:
        assert None not in row.values()
        assert before[row["product_id"]] == {name: row[name] for name in ("product_id", "category", "confidence")}
    assert run_json("predict", "--workspace", copy, "--explain", "all")["counts"]["predicted"] == 0
    assert run_json("predict", "--workspace", copy)["counts"]["predicted"] == 0


@pytest.mark.slow
def test_the_paper_is_written_from_a_workspace(copy: Path) -> None:
    page = Path(run_json("evaluate", "--workspace", copy, "--paper")["counts"]["paper"])
    text = page.read_text()
    for title in (
        "## Table 1",
        "## Table 2",
        "## Figure 2",
        "honest and optimistic",
        "## Which modality earns its keep",
    ):
        assert title in text
    models = {row["model"] for row in table(page.parent / "table_1.csv")}
    assert {"ngram-text", "small-image", "fusion-head", "late fusion", "concatenation"} == models
    assert (page.parent / "figure_2.png").stat().st_size > 10_000
    explained = Path(run_json("explain", "--workspace", copy)["counts"]["report"])
    assert explained != page
    assert "## Table 1" not in explained.read_text()
    assert (explained.parent / "modality_value.csv").read_bytes() == (page.parent / "modality_value.csv").read_bytes()


@pytest.mark.slow
def test_the_review_queue_is_written_from_a_workspace(copy: Path) -> None:
    waiting = {row["product_id"] for row in predictions(copy, "product_id", "decision") if row["decision"] == "review"}
    counts = run_json("review", "--workspace", copy)["counts"]
    queue = {row["product_id"]: row for row in table(Path(counts["csv"]))}
    assert {key for key, row in queue.items() if "abstained" in row["reasons"]} == waiting
    assert len(queue) == counts["products"]
    assert Path(counts["page"]).read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("job", ["explain", "evaluate", "review"])
def test_a_workspace_without_a_predictor_is_refused(tmp_path: Path, job: str) -> None:
    Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))
    done = run_job(job, "--workspace", tmp_path / "w")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("no predictor there; `jobs.train_late_fusion` makes one")

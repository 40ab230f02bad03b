"""The whole job on a small sample catalog: what it promises of its outputs, its second run, and a changed catalog."""

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch.catalog import Catalog
from mmbatch.models import list_models, newest_encoders
from mmbatch.predictions import Predictions
from mmbatch.quarantine import quarantine_table
from mmbatch.schema import PREDICTIONS
from mmbatch.splits import content_groups
from mmbatch.workspace import Workspace
from tests.conftest import ROWS, run_job, run_json

Finished = tuple[Path, dict[str, Any]]


def test_every_row_is_stored_or_in_quarantine_with_a_reason(finished: Finished, sample_file: Path) -> None:
    workspace, result = finished
    counts = result["ingest"]["counts"]
    assert counts["rows"] == ROWS == counts["new"] + counts["rejected"]
    opened = Workspace.open(str(workspace))
    assert Catalog(workspace=opened).table.rows() == counts["new"]
    rejected = quarantine_table(opened).read().to_pylist()
    assert sum(row["modality"] is None for row in rejected) == counts["rejected"]
    assert all(row["reason"] and row["message"] and row["source"] == str(sample_file) for row in rejected)


def test_every_product_has_one_prediction(finished: Finished) -> None:
    workspace, _ = finished
    opened = Workspace.open(str(workspace))
    rows = Predictions(workspace=opened).table.read()
    assert rows.schema.equals(PREDICTIONS)
    catalog = Catalog(workspace=opened).table.read(["product_id"])["product_id"].to_pylist()
    assert sorted(rows["product_id"].to_pylist()) == sorted(catalog)
    for row in rows.slice(0, 50).to_pylist():
        assert row["category"] == " > ".join(row["label"]) == row["top_categories"][0]
        assert row["confidence"] == row["top_probabilities"][0] == max(row["top_probabilities"])
        missing = {"text": row["text_hash"] is None, "image": row["image_hash"] is None}
        models = dict(row["model_categories"])
        assert ("ngram-text" in models, "small-image" in models) == (not missing["text"], not missing["image"])


def test_the_models_beat_the_majority_class(finished: Finished) -> None:
    _, result = finished
    table = {(row["model"], row["split"]): row for row in result["evaluate"]["counts"]["table"]}
    assert table["late fusion", "train"]["micro"] > 0.7
    assert table["late fusion", "test"]["rows"] > 30


def test_splits_cover_the_labelled_and_keep_equal_content_together(finished: Finished) -> None:
    labels = Catalog(workspace=Workspace.open(str(finished[0]))).labels()
    assert labels["split"].null_count == 0
    shares = Counter(labels["split"].to_pylist())
    assert shares["train"] > 0.65 * labels.num_rows
    assert shares["fusion"] > 0.05 * labels.num_rows
    assert shares["golden"] > 0.02 * labels.num_rows
    groups = content_groups(labels["text_hash"], labels["image_hash"])
    sides = {(group, split) for group, split in zip(groups, labels["split"].to_pylist(), strict=True)}
    assert len(sides) == len(set(groups))


def test_no_model_was_made_from_test_rows(finished: Finished) -> None:
    opened = Workspace.open(str(finished[0]))
    for kind in ("encoder", "head"):
        assert all(model.card["metrics"]["split"] == "fusion" for model in list_models(opened, kind))
    [predictor] = list_models(opened, "predictor")
    labels = Catalog(workspace=opened).labels()
    assert predictor.card["late_fusion"]["rows"] <= Counter(labels["split"].to_pylist())["fusion"]


def test_other_tools_read_the_predictions(finished: Finished) -> None:
    folder = str(finished[0] / "predictions")
    expected = Predictions(workspace=Workspace.open(str(finished[0]))).table.rows()
    frame = pl.scan_delta(folder).select("category", "confidence").collect()
    assert frame.height == expected
    files = [entry.path for entry in Predictions(workspace=Workspace.open(str(finished[0]))).table.files()]
    query = f"SELECT count(DISTINCT product_id) FROM read_parquet({[f'{folder}/{file}' for file in files]})"
    assert duckdb.sql(query).fetchall() == [(expected,)]


def test_the_report_is_there_and_the_table_is_printed(finished: Finished) -> None:
    report = Path(finished[1]["evaluate"]["counts"]["report"])
    assert report.name == "report.html"
    assert {path.name for path in report.parent.iterdir()} >= {"confusion_matrix.png", "stress.png"}


def test_the_stress_table_begins_with_what_is_published_and_each_removed_part_is_missed(finished: Finished) -> None:
    counts = finished[1]["evaluate"]["counts"]
    [published] = [row for row in counts["table"] if (row["model"], row["split"]) == ("late fusion", "test")]
    table = {row["input"]: row for row in counts["stress"]}
    assert list(table) == ["all", "no image", "no text", "no description", "title only"]
    assert table["all"] == {"input": "all"} | {name: published[name] for name in ("rows", "macro", "micro")}
    assert {row["rows"] for row in table.values()} == {published["rows"]}
    removed = [table[name]["micro"] for name in ("no image", "no text", "title only")]
    assert max(removed) <= table["all"]["micro"]
    assert min(removed) < table["all"]["micro"] - 0.05
    assert "title only" in counts["text"]
    assert "title only" in Path(counts["report"]).read_text(encoding="utf-8")


def test_a_second_run_finds_everything_done(finished: Finished, sample_file: Path) -> None:
    workspace, _ = finished
    before = stamps(workspace)
    done = run_job("pipeline", "--workspace", workspace, "--source", sample_file)
    assert done.returncode == 0
    for line in ("nothing new", "every product has its features", "every prediction stands", "found the report"):
        assert line in done.stderr
    assert stamps(workspace) == before


def stamps(workspace: Path) -> list[tuple[Path, int]]:
    """Every file and folder with its last change; a run's claim to write is no change of the workspace."""
    paths = (path for path in workspace.rglob("*") if "epochs" not in path.parts)
    return sorted((path, path.stat().st_mtime_ns) for path in paths)


@pytest.mark.slow
def test_an_edited_title_is_the_only_thing_computed_again(tmp_path: Path, sample_file: Path) -> None:
    workspace = tmp_path / "w"
    run_json("pipeline", "--workspace", workspace, "--source", sample_file)
    opened = Workspace.open(str(workspace))
    before = Predictions(workspace=opened).table.read().to_pylist()
    rows = pq.read_table(sample_file).to_pylist()
    edited = next(row for row in rows if row["product_id"] and row["title"] and row["category_path"] is None)
    edited["title"] = "an entirely new title"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(sample_file)), tmp_path / "next.parquet")
    counts = run_json("ingest", "--workspace", workspace, "--source", tmp_path / "next.parquet")["counts"]
    assert (counts["new"], counts["edited"]) == (0, 1)
    extracted = run_json("extract_features", "--workspace", workspace)["counts"]
    assert (extracted["computed"], extracted["reused"]) == (1, 0)
    predicted = run_json("predict", "--workspace", workspace)["counts"]
    assert predicted["predicted"] == 1
    after = Predictions(workspace=opened).table.read().to_pylist()
    changed = [old["product_id"] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [edited["product_id"]]
    assert len(newest_encoders(opened)) == len(list_models(opened, "encoder"))
    assert run_json("extract_features", "--workspace", workspace)["counts"]["computed"] == 0

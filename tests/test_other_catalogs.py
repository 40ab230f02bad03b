"""Catalogs that are not like the sample: no labels, one class, no images, no text."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmbatch.predictions import Predictions
from mmbatch.workspace import Workspace
from tests.conftest import run_job, run_json

WORDS = {"shoes": "leather sole laces", "books": "novel author pages", "lamps": "bulb light shade"}


def labelled(count: int) -> list[dict]:
    names = list(WORDS)
    return [
        {"sku": f"{i:04d}", "name": f"{WORDS[names[i % 3]]} number {i}", "top": names[i % 3], "leaf": f"leaf {i % 2}"}
        for i in range(count)
    ]


def ingested(workspace: Path, file: Path, *columns: str) -> Path:
    assert run_job("ingest", "--workspace", workspace, "--source", file, "--columns", *columns).returncode == 0
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (None, "no product has a label, training needs labelled products"),
        ("one", r"found one class only (one), training needs at least two"),
        ("each its own", "no class has three products"),
    ],
)
def test_training_refuses_what_cannot_be_learned(
    label: str | None, expected: str, tmp_path: Path, write_csv: Callable[..., Path]
) -> None:
    rows = [row | {"top": f"c{i}" if label == "each its own" else label} for i, row in enumerate(labelled(30))]
    columns = ["id=sku", "title=name", *(["label=top"] if label else [])]
    workspace = ingested(tmp_path / "w", write_csv(rows), *columns)
    done = run_job("finetune_encoder", "--workspace", workspace)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_weights_that_are_not_there_are_named_before_any_training(
    tmp_path: Path, write_csv: Callable[..., Path]
) -> None:
    flags = ("--preset", "flipkart-small", "--columns", "id=sku", "title=name", "label=top")
    workspace = tmp_path / "w"
    assert run_job("ingest", "--workspace", workspace, "--source", write_csv(labelled(60)), *flags).returncode == 0
    done = run_job("finetune_encoder", "--workspace", workspace, "--weights", tmp_path / "nowhere")
    assert done.returncode == 2
    assert f"error: --weights {tmp_path}/nowhere: no such folder" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run_job("finetune_encoder", "--workspace", workspace, MMBATCH_WEIGHTS=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "sentence-transformers/all-MiniLM-L6-v2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_catalog_of_text_alone_goes_all_the_way(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    rows = labelled(120)
    rows[7]["top"] = "a class of one product"
    rows[8]["top"] = ""
    file = write_csv(rows)
    columns = ("--columns", "id=sku", "title=name", "label=top,leaf", "--level", 1)
    result = run_json("pipeline", "--workspace", tmp_path / "w", "--source", file, *columns)
    assert len(result["encoders"]) == 1
    predictions = Predictions(workspace=Workspace.open(str(tmp_path / "w"))).table.read().to_pylist()
    assert {row["product_id"] for row in predictions} == {f"{i:04d}" for i in range(120)}
    [unlabelled] = [row["category"] for row in predictions if row["product_id"] == "0008"]
    assert unlabelled == "lamps"
    stress = {row["input"]: row["micro"] for row in result["evaluate"]["counts"]["stress"]}
    assert list(stress) == ["all", "no text"], "there are no images and no descriptions to remove"
    assert (stress["all"] > 0.5, stress["no text"]) == (True, 0.0)


@pytest.mark.slow
def test_a_catalog_of_images_alone_goes_all_the_way(tmp_path: Path, sample_file: Path) -> None:
    table = pq.read_table(sample_file).select(["product_id", "image", "category_path"])
    pq.write_table(table, tmp_path / "images.parquet")
    columns = ("--columns", "id=product_id", "image=image", "label=category_path", "--level", 1)
    result = run_json("pipeline", "--workspace", tmp_path / "w", "--source", tmp_path / "images.parquet", *columns)
    assert [encoder.split("@")[0] for encoder in result["encoders"]] == ["small-image"]
    assert result["ingest"]["counts"]["rejected"] > 10  # products without an image have nothing left

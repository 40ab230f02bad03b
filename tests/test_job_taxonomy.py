"""The category tree edited as a user does: renamed, merged and removed categories, predicted and scored anew."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmbatch.predictions import Predictions
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job, run_json

Finished = tuple[Path, dict[str, Any]]

EDITS = """old,new
Furniture > Sofas,Furniture > Couches
Electronics > Tablets,
Shoes > Boots,Shoes > Closed shoes
Shoes > Sneakers,Shoes > Closed shoes
"""
BECOMES = {
    "Furniture > Sofas": "Furniture > Couches",
    "Shoes > Boots": "Shoes > Closed shoes",
    "Shoes > Sneakers": "Shoes > Closed shoes",
}


@pytest.fixture
def edited(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished workspace, beside a file of edits."""
    (tmp_path / "edits.csv").write_text(EDITS)
    return shutil.copytree(finished[0], tmp_path / "workspace")


def categories(workspace: Path) -> Counter[str]:
    rows = Predictions(workspace=Workspace.open(str(workspace))).table.read(["category"])
    return Counter(rows["category"].to_pylist())


@pytest.mark.slow
def test_edits_decide_anew_without_an_encoder_and_are_scored(finished: Finished, edited: Path) -> None:
    before, flags = categories(edited), ("--workspace", edited)
    planned = run_json("taxonomy", *flags, "--edits", edited.parent / "edits.csv", "--dry-run")["work"]
    assert not (edited / "taxonomy").exists()
    done = run_job("taxonomy", *flags, "--edits", edited.parent / "edits.csv")
    assert done.returncode == 0, done.stderr
    assert "version 1: 1 renamed, 2 merged, 0 split, 1 removed" in done.stderr
    assert f"Electronics > Tablets: removed ({before['Electronics > Tablets']:,} published predictions" in done.stderr
    assert "the next jobs.predict decides anew, from stored features: no encoder runs" in done.stderr
    assert {row["category"]: row["predictions"] for row in planned["touched"]} == {
        name: before[name] for name in (*BECOMES, "Electronics > Tablets")
    }

    shutil.move(edited / "models" / "encoder", edited.parent / "encoder")
    counts = run_json("predict", *flags)["counts"]
    assert counts["predicted"] == counts["products"] == before.total()
    after = categories(edited)
    assert after.total() == before.total()
    assert not {"Furniture > Sofas", "Electronics > Tablets", "Shoes > Boots", "Shoes > Sneakers"} & set(after)
    assert after["Shoes > Closed shoes"] >= before["Shoes > Boots"] + before["Shoes > Sneakers"]
    assert run_json("predict", *flags)["counts"]["unchanged"] == before.total()

    shutil.move(edited.parent / "encoder", edited / "models" / "encoder")
    evaluated = run_json("evaluate", *flags)["counts"]
    rows = {(row["model"], row["split"]): row for row in evaluated["table"]}
    old = {(row["model"], row["split"]): row for row in finished[1]["evaluate"]["counts"]["table"]}
    assert 0 < rows["late fusion", "train"]["rows"] < old["late fusion", "train"]["rows"]
    assert rows["late fusion", "train"]["micro"] > 0.7
    assert Path(evaluated["report"]).parent != Path(finished[1]["evaluate"]["counts"]["report"]).parent


def test_versions_are_listed_and_the_same_file_adds_no_other(edited: Path) -> None:
    flags = ("--workspace", edited)
    listed = run_job("taxonomy", *flags)
    found = re.fullmatch(r"no version: not edited\n(\d+) categories now\n", listed.stdout)
    assert found, listed.stderr
    run_json("taxonomy", *flags, "--edits", edited.parent / "edits.csv")
    again = run_job("taxonomy", *flags, "--edits", edited.parent / "edits.csv")
    assert (again.returncode, again.stderr) == (0, "taxonomy   version 1 holds these edits already\n")
    listed = run_job("taxonomy", *flags)
    assert listed.stdout.splitlines() == [
        "version    edits    moved    split  removed",
        "      1        4        3        0        1",
        f"{int(found[1]) - 2} categories now",
    ]
    assert run_json("taxonomy", *flags)["versions"] == [
        {"version": 1, "edits": 4, "moved": 3, "split": 0, "removed": 1}
    ]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("none.json", None, "none.json: no such file"),
        ("e.txt", "{}", "e.txt: found a file ending in '.txt', expected .json or .csv"),
        ("e.json", "{", "e.json: not JSON"),
        ("e.csv", "from,to\n", "e.csv: found header"),
        ("e.json", '{"Toys": null}', "no category there yet: no labelled product, and no predictor"),
    ],
)
def test_bad_files_of_edits_are_refused(name: str, text: str | None, found: str, tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=4))
    if text is not None:
        (tmp_path / name).write_text(text)
    for flags in ((), ("--dry-run",)):
        done = run_job("taxonomy", "--workspace", workspace.uri, "--edits", tmp_path / name, *flags)
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert found in line
    assert not Path(workspace.path("taxonomy")).exists()


def test_a_version_that_is_damaged_stops_what_reads_it(edited: Path) -> None:
    (edited / "taxonomy").mkdir()
    (edited / "taxonomy" / "000001.json").write_text(json.dumps(["Toys"]))
    for job in ("predict", "evaluate", "taxonomy"):
        done = run_job(job, "--workspace", edited)
        assert done.returncode == 2
        assert "taxonomy/000001.json: expected one JSON object" in done.stderr.splitlines()[-1]

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.pipelines import replay as replaying
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.replay import replay
from mmbatch.quarantine import entries_for, quarantine_table
from mmbatch.quarantine_view import EXPORTED, Selection
from mmbatch.sources import REJECTS, Columns
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job, run_json
from tests.test_quarantine import held, products, row, take

WriteCsv = Callable[..., Path]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))


def draw(file: Path) -> None:
    Image.new("RGB", (8, 8)).save(file)


def again(workspace: Workspace, *reasons: str) -> dict[str, Any]:
    counts: dict[str, Any] = replay(workspace, Selection(reasons=reasons))["ingest"]["counts"]
    return counts


@pytest.mark.usefixtures("in_process")
def test_what_is_good_now_enters_the_catalog_and_leaves_quarantine(
    workspace: Workspace, write_csv: WriteCsv, tmp_path: Path
) -> None:
    rows = [row(1, photo="1.png"), row(2, "", photo="2.png"), row(3, photo="none.jpg"), row("", "no id")]
    take(workspace, write_csv(rows))
    for name in ("1.png", "2.png"):
        draw(tmp_path / name)
    counts = again(workspace)
    assert (counts["entries"], counts["rows"], counts["accepted"], counts["still_rejected"]) == (4, 4, 2, 2)
    assert (counts["new"], counts["edited"], counts["unchanged"], counts["rejected"]) == (1, 1, 1, 1)
    assert held(workspace) == [("3", "image_missing", "catalog.csv"), (None, "no_id", "catalog.csv")]
    hashes = Catalog(workspace=workspace).keys().select(["product_id", "image_hash"]).to_pylist()
    assert {key["product_id"] for key in hashes if key["image_hash"]} == {"1", "2"}
    version = quarantine_table(workspace).version()
    assert again(workspace)["still_rejected"] == 2
    assert quarantine_table(workspace).version() == version


@pytest.mark.usefixtures("in_process")
def test_only_the_selected_rows_are_read(workspace: Workspace, write_csv: WriteCsv, tmp_path: Path) -> None:
    take(workspace, write_csv([row(1, photo="1.png"), row(2, ""), row(3)]))
    write_csv([row(1, photo="1.png"), row(2, "mended"), row(3, "edited")])
    draw(tmp_path / "1.png")
    counts = again(workspace, "image_missing")
    assert (counts["entries"], counts["rows"], counts["accepted"]) == (1, 1, 1)
    assert products(workspace) == {"1": "a name", "3": "a name"}
    assert held(workspace) == [("2", "no_content", "catalog.csv")]


@pytest.mark.usefixtures("in_process")
def test_an_id_that_another_row_of_the_file_has_stays_a_duplicate(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(1), row(1, "second"), row("", "third"), row(1, "fourth")]))
    write_csv([row(1), row(1, "second"), row(1, "third"), row(4, "fourth")])
    counts = again(workspace)
    assert (counts["accepted"], counts["reasons"]) == (1, {"duplicate_id": 2})
    assert products(workspace) == {"1": "a name", "4": "fourth"}
    positions = quarantine_table(workspace).read(["position"])["position"].to_pylist()
    assert sorted(positions) == [1, 2]


@pytest.mark.usefixtures("in_process")
def test_rows_of_row_groups_are_found_with_the_columns_of_the_last_ingest(workspace: Workspace, tmp_path: Path) -> None:
    def write(titles: list[str]) -> None:
        table = pa.table({"id": [str(i) for i in range(9)], "old": [""] * 9, "name": titles})
        pq.write_table(table, tmp_path / "shop" / "part.parquet", row_group_size=3)

    (tmp_path / "shop").mkdir()
    write([""] + ["x"] * 8)
    for title in ("old", "name"):
        ingest(workspace, source=str(tmp_path / "shop"), columns=Columns(id="id", title=title))
    assert held(workspace) == [("0", "no_content", "part.parquet")]
    write(["x"] * 7 + ["", "x"])
    ingest(workspace, source=str(tmp_path / "shop"), columns=Columns(id="id", title="name"))
    assert held(workspace) == [("7", "no_content", "part.parquet")]
    write(["edited"] * 9)
    assert again(workspace)["rows"] == 1
    assert products(workspace) == dict.fromkeys("012345678", "x") | {"7": "edited"}


@pytest.mark.usefixtures("in_process")
def test_rows_that_have_moved_and_files_that_are_gone_are_refused(workspace: Workspace, write_csv: WriteCsv) -> None:
    file = write_csv([row(1), row(2, "")])
    take(workspace, file)
    write_csv([row(0, "added on top"), row(1), row(2, "mended")])
    before = (products(workspace), held(workspace))
    with pytest.raises(InputError, match=r"row 1 was product '2' when it was rejected and is '1' now"):
        again(workspace)
    file.unlink()
    with pytest.raises(InputError, match=r"catalog.csv: rows in quarantine came from it and it is not there"):
        again(workspace)
    assert (products(workspace), held(workspace)) == before


def test_contents_that_could_not_be_encoded_are_tried_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject = {"position": None, "product_id": "p", "modality": "image", "reason": "no_image", "message": "m"}
    entries = entries_for(
        pa.Table.from_pylist([reject], schema=REJECTS), stage="extract", source="catalog", run_id="r", buckets=2
    )
    table = quarantine_table(workspace)
    table.commit(table.write_buckets(entries), app_id="r")
    assert replay(workspace, Selection(stage="ingest")) == {}
    with pytest.raises(InputError, match="no encoder there"):
        replay(workspace, Selection())
    monkeypatch.setattr(replaying, "newest_encoders", lambda _: ["encoder"])
    monkeypatch.setattr(replaying, "extract", lambda _, encoders: {"encoders": encoders})
    assert replay(workspace, Selection()) == {"extract": {"encoders": ["encoder"]}}


@pytest.mark.usefixtures("in_process")
def test_the_job_lists_and_exports(workspace: Workspace, write_csv: WriteCsv, tmp_path: Path) -> None:
    file = write_csv([row(1, photo="none.jpg"), row(2, photo="none.jpg"), row("", "no id"), row(4, "")])
    take(workspace, file)
    flags = ("quarantine", "--workspace", workspace.uri)
    listed = run_job(*flags).stdout
    assert "4 entries in quarantine" in listed
    assert ["ingest", "image_missing", "image", "2"] in [line.split() for line in listed.splitlines()]
    assert f"(no id)  no_id: column 'sku' is empty  [{file} row 2]" in listed
    result = run_json(*flags, "--reason", "no_id", "no_content", "--source", tmp_path)
    assert [(row["reason"], row["entries"]) for row in result["counts"]] == [("no_content", 1), ("no_id", 1)]
    assert [row["product_id"] for row in result["newest"]] == [None, "4"]
    assert run_json(*flags, "--source", f"{file}x")["entries"] == 0
    assert run_json(*flags, "--dry-run", "--replay", "--stage", "ingest")["work"]["entries"] == 4

    expected = sorted(quarantine_table(workspace).read(EXPORTED.names).to_pylist(), key=str)
    readers: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        ".csv": lambda path: pacsv.read_csv(
            path, convert_options=pacsv.ConvertOptions(column_types=EXPORTED, strings_can_be_null=True)
        ).to_pylist(),
        ".parquet": lambda path: pq.read_table(path).to_pylist(),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    }
    for suffix, read in readers.items():
        exported = tmp_path / f"out{suffix}"
        assert run_json(*flags, "--export", exported)["exported"] == 4
        assert sorted(read(exported), key=str) == expected
    refused = run_job(*flags, "--export", tmp_path / "out.xlsx")
    assert refused.returncode == 2
    assert "expected a name that ends in .csv, .parquet, .jsonl" in refused.stderr
    assert "cannot be written: No such file" in run_job(*flags, "--export", tmp_path / "none" / "out.csv").stderr


def test_nothing_in_quarantine(workspace: Workspace) -> None:
    assert run_job("quarantine", "--workspace", workspace.uri).stdout == "0 entries in quarantine\n"
    assert "nothing to do" in run_job("quarantine", "--workspace", workspace.uri, "--replay").stderr

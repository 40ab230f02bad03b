"""Sources that come night after night: feeds, snapshots that are refused, and what is prepared and not committed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError, LostRaceError, RefusedToPublishError
from mmbatch.pipelines import intake
from mmbatch.pipelines.ingest import Prepared, ingest, prepare
from mmbatch.pipelines.refusals import SMALL_CATALOG
from mmbatch.pipelines.replay import replay
from mmbatch.quarantine import quarantine_table
from mmbatch.quarantine_view import Selection
from mmbatch.runs import last_run, tie_out
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace
from tests.test_quarantine import held, products, versions

pytestmark = pytest.mark.usefixtures("in_process")

COLUMNS = Columns(id="sku", title="name", image="photo", label=("top",))
FEED = Columns(id="sku", title="name", operation="op")

WriteCsv = Callable[..., Path]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))


def row(sku: object, name: str = "a name", photo: str = "", top: str = "") -> dict[str, Any]:
    return {"sku": sku, "name": name, "photo": photo, "top": top}


def change(op: str, sku: object, name: str = "a name") -> dict[str, Any]:
    return {"op": op, "sku": sku, "name": name}


def take(workspace: Workspace, file: Path | str, columns: Columns = COLUMNS, **how: bool) -> dict[str, Any]:
    counts: dict[str, Any] = ingest(workspace, source=str(file), columns=columns, **how)["counts"]
    outcomes = ("new", "edited", "unchanged", "rejected", "superseded", "deleted", "deleted_unknown", "skipped")
    tie_out("ingest", counts["rows"], {name: counts[name] for name in outcomes})
    return counts


def some(counts: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in counts.items() if isinstance(value, int) and value}


def files_of(workspace: Workspace) -> set[Path]:
    """Everything but the ledger, the epochs and the settings."""
    root = Path(workspace.uri)
    return {
        path for path in root.rglob("*") if path.is_file() and path.suffix == ".parquet" and "runs" not in str(path)
    }


def test_a_feed_inserts_updates_and_deletes(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(number) for number in range(1, 6)]))
    rows = [
        change("I", 6),
        change("update_preimage", 1),
        change("update_postimage", 1, "edited"),
        change("U", 2),
        change("Delete", 3, ""),
        change("d", "unknown", ""),
        change("truncate", 4),
        change("", 5, "b"),
        change("d", ""),
    ]
    counts = take(workspace, write_csv(rows, "feed.csv"), FEED)
    assert some(counts) == {
        "rows": 9,
        "new": 1,
        "edited": 1,
        "unchanged": 1,
        "deleted": 1,
        "deleted_unknown": 1,
        "removed": 1,
        "skipped": 1,
        "rejected": 3,
        "flawed": 3,
    }
    assert counts["reasons"] == {"bad_operation": 2, "no_id": 1}
    assert counts["edited_fields"] == {"title": 1, "description": 0, "image": 0, "label": 0}
    assert products(workspace) == {"1": "edited", "2": "a name", "4": "a name", "5": "a name", "6": "a name"}
    assert held(workspace) == [
        ("4", "bad_operation", "feed.csv"),
        ("5", "bad_operation", "feed.csv"),
        (None, "no_id", "feed.csv"),
    ]
    assert ingest(workspace, source=f"{write_csv(rows, 'again.csv')}", columns=FEED)["counts"]["new"] == 0


def test_the_last_row_of_a_product_counts_in_a_feed_of_several_files(
    workspace: Workspace, write_csv: WriteCsv, tmp_path: Path
) -> None:
    (tmp_path / "feed").mkdir()
    write_csv([change("c", 1, "one"), change("c", 2, "two"), change("u", 1, ""), change("u", 3, "")], "feed/001.csv")
    later = [change("u", 1, "newest"), change("d", 2), change("c", 4), change("d", 4), change("c", 4, "four")]
    write_csv([*later, change("u", 4, "")], "feed/002.csv")
    counts = take(workspace, tmp_path / "feed", FEED)
    assert products(workspace) == {"1": "newest", "4": "four"}
    assert some(counts) == {
        "rows": 10,
        "new": 2,
        "superseded": 5,
        "deleted_unknown": 1,
        "rejected": 2,
        "flawed": 2,
    }
    # product 4's last row is bad, so that the one before it stands and the bad one can be mended
    assert held(workspace) == [("3", "no_content", "001.csv"), ("4", "no_content", "002.csv")]


def test_a_row_that_was_superseded_leaves_nothing_in_quarantine(workspace: Workspace, write_csv: WriteCsv) -> None:
    columns = Columns(id="sku", title="name", image="photo", operation="op")
    rows = [change("u", 1) | {"photo": "none.jpg"}, change("u", 1, "good") | {"photo": ""}]
    counts = take(workspace, write_csv(rows), columns)
    assert (counts["new"], counts["superseded"], counts["part_reasons"], held(workspace)) == (1, 1, {}, [])


def test_a_bad_operation_is_mended_and_read_again(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([change("c", 1), change("c", 2), change("remove", 2)]), FEED)
    assert held(workspace) == [("2", "bad_operation", "catalog.csv")]
    write_csv([change("c", 1), change("c", 2), change("delete", 2)])
    counts = replay(workspace, Selection())["ingest"]["counts"]
    assert (counts["deleted"], counts["accepted"], counts["still_rejected"]) == (1, 1, 0)
    assert (products(workspace), held(workspace)) == ({"1": "a name"}, [])


def test_a_feed_without_changes_is_no_error(workspace: Workspace, write_csv: WriteCsv, tmp_path: Path) -> None:
    take(workspace, write_csv([row(1)]))
    (tmp_path / "feed.csv").write_text("op,sku,name\n")
    counts = take(workspace, tmp_path / "feed.csv", FEED)
    assert (some(counts), len(products(workspace))) == ({}, 1)


def test_deletes_of_most_products_are_refused(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(number) for number in range(SMALL_CATALOG)]))
    feed = write_csv([change("d", number) for number in range(60)], "feed.csv")
    with pytest.raises(RefusedToPublishError, match="the source's deletes would remove 60 of 100 products, more than"):
        take(workspace, feed, FEED)
    assert len(products(workspace)) == SMALL_CATALOG
    assert take(workspace, feed, FEED, allow_removals=True)["deleted"] == 60


def test_a_snapshot_without_a_usable_row_removes_nothing(
    workspace: Workspace, write_csv: WriteCsv, tmp_path: Path
) -> None:
    take(workspace, write_csv([row(1), row(2)]))
    before = versions(workspace)
    (tmp_path / "headers.csv").write_text("sku,name,photo,top\n")
    with pytest.raises(InputError, match=r"no rows in 1 file\(s\), only headers"):
        take(workspace, tmp_path / "headers.csv", snapshot=True)
    without = write_csv([row("", "no id")], "without.csv")
    with pytest.raises(
        RefusedToPublishError, match="remove 2 of 2 products: no row of the source can be used; deliver"
    ):
        take(workspace, without, snapshot=True)
    assert versions(workspace) == before
    assert take(workspace, without, snapshot=True, allow_removals=True)["removed"] == 2
    assert products(workspace) == {}


def test_every_title_empty_keeps_the_products_and_says_so(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(number) for number in range(SMALL_CATALOG)]))
    emptied = write_csv([row(number, "") for number in range(SMALL_CATALOG)], "emptied.csv")
    counts = take(workspace, emptied, snapshot=True)
    assert (counts["rejected"], counts["removed"], counts["reasons"]) == (100, 0, {"no_content": 100})
    assert set(products(workspace).values()) == {"a name"}


def test_all_images_gone_is_an_edit_of_every_image(workspace: Workspace, write_csv: WriteCsv, tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    file = write_csv([row(number, photo=f"{number}.png") for number in range(5)])
    take(workspace, file)
    for number in range(5):
        (tmp_path / f"{number}.png").unlink()
    os.utime(file, (2e9, 2e9))
    counts = take(workspace, file, snapshot=True)
    assert (counts["edited"], counts["edited_fields"]["image"]) == (5, 5)
    assert counts["part_reasons"] == {"image_missing": 5}


@pytest.mark.parametrize(
    ("ids", "example"),
    [
        ([f"{number:05}" for number in range(100, 220)], "The catalog has '00100', the source '100'"),
        ([f"{number}.0" for number in range(100, 220)], "The catalog has '100.0', the source '100'"),
    ],
)
def test_ids_that_changed_type_are_told_from_a_cut(
    ids: list[str], example: str, workspace: Workspace, write_csv: WriteCsv
) -> None:
    take(workspace, write_csv([row(name) for name in ids]))
    tonight = write_csv([row(number) for number in range(100, 220)], "tonight.csv")
    expected = (
        "--snapshot would remove 120 of 120 products, more than 50%: of the 120 ids in the source the catalog knows 0;"
        f" are ids written in another way? {example}; deliver the source again, or remove them with --allow-removals"
    )
    with pytest.raises(RefusedToPublishError) as refused:
        take(workspace, tonight, snapshot=True)
    assert str(refused.value) == expected


def test_a_csv_cut_in_the_middle_of_a_row(workspace: Workspace, write_csv: WriteCsv, tmp_path: Path) -> None:
    whole = write_csv([row(f"p{number}", top="x") for number in range(SMALL_CATALOG)])
    take(workspace, whole)
    content = whole.read_text()
    cut = tmp_path / "cut.csv"
    cut.write_text(content[: content.index("p40,a name") + 3])
    with pytest.raises(RefusedToPublishError, match="knows 40, so it looks cut short; it lacks 'p40', for one"):
        take(workspace, cut, snapshot=True)
    counts = take(workspace, cut)
    assert (counts["unchanged"], counts["reasons"]) == (40, {"malformed_row": 1})


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_parquet_file_cut_in_the_middle(keep: float, workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "catalog.parquet"
    pq.write_table(pa.Table.from_pylist([row(number) for number in range(1_000)]), file)
    take(workspace, file)
    before = versions(workspace)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(InputError, match=r"catalog\.parquet: cannot be read"):
        take(workspace, file, snapshot=True)
    assert versions(workspace) == before


def test_renamed_columns_change_nothing(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(1)]))
    before = versions(workspace)
    with pytest.raises(InputError, match=r"no column 'name', did you mean 'Name'\? it has 'sku', 'Name'"):
        take(workspace, write_csv([{"sku": 1, "Name": "x", "photo": "", "top": ""}], "b.csv"), snapshot=True)
    assert versions(workspace) == before


def test_an_older_snapshot_is_refused_and_the_same_one_is_nothing_new(
    workspace: Workspace, write_csv: WriteCsv, capsys: pytest.CaptureFixture[str]
) -> None:
    monday, tuesday = write_csv([row(1)], "monday.csv"), write_csv([row(1, "new")], "tuesday.csv")
    feed = write_csv([change("d", 1)], "feed.csv")
    for file, seconds in ((monday, 1_700_000_000), (tuesday, 1_700_086_400), (feed, 1_700_000_001)):
        os.utime(file, (seconds, seconds))
    assert take(workspace, monday, snapshot=True)["modified"] == "2023-11-14T22:13:20+00:00"
    take(workspace, tuesday, snapshot=True)
    before = versions(workspace)
    message = (
        r"monday\.csv: last modified 2023-11-14 22:13:20 UTC, older than the last one that was ingested,"
        r" 2023-11-15 22:13:20 UTC; expected a newer one, or --allow-older"
    )
    with pytest.raises(InputError, match=message):
        take(workspace, monday, snapshot=True)
    with pytest.raises(InputError, match=r"feed\.csv: last modified 2023-11-14 22:13:21 UTC"):
        take(workspace, feed, FEED)
    assert versions(workspace) == before
    take(workspace, tuesday, snapshot=True)
    assert "nothing new" in capsys.readouterr().err
    assert take(workspace, monday)["edited"] == 1  # adds products, in no order
    assert take(workspace, monday, snapshot=True, allow_older=True)["unchanged"] == 1
    os.utime(tuesday, (1_700_043_200, 1_700_043_200))
    assert take(workspace, tuesday, snapshot=True)["edited"] == 1  # newer than the one that was allowed


def test_a_file_system_without_times_refuses_nothing(
    workspace: Workspace, write_csv: WriteCsv, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(workspace, write_csv([row(1)]), snapshot=True)
    monkeypatch.setattr("mmbatch.pipelines.ingest.newest_change", lambda files: None)
    counts = take(workspace, write_csv([row(1), row(2)], "b.csv"), snapshot=True)
    assert (counts["new"], counts["modified"]) == (1, None)


def test_what_is_prepared_is_there_when_it_is_committed(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(number, top="x") for number in range(10)]))
    before, run = versions(workspace), last_run(workspace, "ingest")
    tonight = write_csv([row(number, "edited", top="x") for number in range(5, 12)], "tonight.csv")
    prepared = prepare(workspace, source=str(tonight), columns=COLUMNS, snapshot=True)
    assert isinstance(prepared, Prepared)
    assert some(dict(prepared.counts)) == {"rows": 7, "new": 2, "edited": 5, "removed": 5}
    planned = prepared.catalog().read(["product_id", "title"]).to_pylist()
    assert {one["product_id"] for one in planned} == {str(number) for number in range(5, 12)}
    assert {one["title"] for one in planned} == {"edited"}
    assert versions(workspace) == before
    assert last_run(workspace, "ingest") == run
    entry = prepared.commit()
    assert entry["counts"]["labelled_products_split"] == 2
    assert Catalog(workspace=workspace).table.read(["product_id", "title"]).to_pylist() == planned
    assert prepared.catalog().read(["product_id", "title"]).to_pylist() == planned
    prepared.discard()  # nothing is left to delete
    assert len(products(workspace)) == 7
    assert ingest(workspace, source=str(tonight), columns=COLUMNS, snapshot=True)["run_id"] == entry["run_id"]


def test_what_is_discarded_leaves_nothing(workspace: Workspace, write_csv: WriteCsv) -> None:
    first = prepare(workspace, source=str(write_csv([row(1), row("", "bad")])), columns=COLUMNS)
    assert isinstance(first, Prepared)
    assert first.catalog().read(["product_id"]).to_pylist() == [{"product_id": "1"}]
    assert files_of(workspace)
    first.discard()
    assert (files_of(workspace), versions(workspace)) == (set(), [-1, -1, -1, -1])
    assert not list(Path(workspace.uri, "tmp").iterdir())
    assert take(workspace, write_csv([row(1)]))["new"] == 1


def test_a_preparation_that_fails_leaves_nothing(
    workspace: Workspace, write_csv: WriteCsv, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(workspace, write_csv([row(number) for number in range(SMALL_CATALOG)]))
    before = files_of(workspace)
    cut = write_csv([row(number, "edited") for number in range(9)], "cut.csv")
    with pytest.raises(RefusedToPublishError):
        prepare(workspace, source=str(cut), columns=COLUMNS, snapshot=True)
    assert files_of(workspace) == before
    merge_bucket = intake.merge_bucket

    def fails_in_the_second(row: dict[str, Any], **how: Any) -> list[dict[str, Any]]:
        if row["bucket"] == 1:
            raise InputError("the disk is full")
        return merge_bucket(row, **how)

    monkeypatch.setattr(intake, "merge_bucket", fails_in_the_second)
    with pytest.raises(InputError, match="the disk is full"):
        prepare(workspace, source=str(cut), columns=COLUMNS)
    assert files_of(workspace) == before
    assert not list(Path(workspace.uri, "tmp").iterdir())


def test_a_catalog_that_changed_in_between_is_not_overwritten(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(1)]))
    tonight = write_csv([row(1, "tonight")], "tonight.csv")
    prepared = prepare(workspace, source=str(tonight), columns=COLUMNS)
    assert isinstance(prepared, Prepared)
    take(workspace, write_csv([row(1, "another")], "another.csv"))
    with pytest.raises(LostRaceError):
        prepared.commit()
    assert products(workspace) == {"1": "another"}


def test_duplicates_that_differ_are_named(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(1), row(1), row(1, "b"), row(1, "c", top="x")]), snapshot=True)
    messages = quarantine_table(workspace).read().sort_by("position")["message"].to_pylist()
    start = "product id 1 came earlier in the source"
    assert messages == [start, f"{start}, with another title", f"{start}, with another title, label"]
    assert products(workspace) == {"1": "a name"}


def test_a_snapshot_is_no_feed(workspace: Workspace, write_csv: WriteCsv) -> None:
    with pytest.raises(InputError, match="--snapshot with --columns operation=op"):
        take(workspace, write_csv([change("c", 1)]), FEED, snapshot=True)

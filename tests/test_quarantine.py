from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from mmbatch import schema
from mmbatch.catalog import Catalog
from mmbatch.errors import RefusedToPublishError
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.refusals import SMALL_CATALOG
from mmbatch.quarantine import Scope, entries_for, quarantine_table, rejected_parts, write_changes
from mmbatch.runs import last_run
from mmbatch.sources import REJECTS, Columns
from mmbatch.workspace import Settings, Workspace

COLUMNS = Columns(id="sku", title="name", image="photo", label=("top",))
NOBODY = pa.array([], pa.string())

WriteCsv = Callable[..., Path]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))


def row(sku: object, name: str = "a name", photo: str = "", top: str = "") -> dict[str, Any]:
    return {"sku": sku, "name": name, "photo": photo, "top": top}


def take(workspace: Workspace, file: Path, *, snapshot: bool = False) -> dict[str, Any]:
    counts: dict[str, Any] = ingest(workspace, source=str(file), columns=COLUMNS, snapshot=snapshot)["counts"]
    return counts


def held(workspace: Workspace) -> list[tuple[str | None, str, str]]:
    """Product, reason and file name of every entry."""
    rows = quarantine_table(workspace).read().to_pylist()
    return sorted(((row["product_id"], row["reason"], Path(row["source"]).name) for row in rows), key=str)


def products(workspace: Workspace) -> dict[str, str | None]:
    rows = Catalog(workspace=workspace).table.read(["product_id", "title"]).to_pylist()
    return {row["product_id"]: row["title"] for row in rows}


def rejects(*rows: tuple[int, str | None, str, str | None]) -> pa.Table:
    names = ("position", "product_id", "reason", "modality")
    return pa.Table.from_pylist([dict(zip(names, one, strict=True)) | {"message": "m"} for one in rows], schema=REJECTS)


def found(*rows: tuple[int, str | None, str, str | None], source: str = "a", run: str = "run") -> pa.Table:
    return entries_for(rejects(*rows), stage="ingest", source=source, run_id=run, buckets=1)


def after(
    workspace: Workspace, now: pa.Table, scope: Scope, *, accepted: tuple[str, ...] = (), removed: tuple[str, ...] = ()
) -> list[tuple[int, str]]:
    """Position and reason of each entry of bucket 0 after a run that found `now`."""
    table, ids = quarantine_table(workspace), [pa.array(list(given), pa.string()) for given in (accepted, removed)]
    changes = write_changes(table, now, bucket=0, scope=scope, accepted=ids[0], removed=ids[1])
    table.replace(*changes, app_id=f"change {table.version()}", read_version=table.version())
    return sorted((row["position"], row["reason"]) for row in table.read().to_pylist())


def test_a_row_is_kept_once_whatever_run_brings_it(workspace: Workspace) -> None:
    entries = [(0, None, "no_id", None), (5, "a", "no_content", None)]
    assert found(*entries).schema.equals(schema.QUARANTINE)
    scope = Scope(files=("a",))
    first = after(workspace, found(*entries, run="run1"), scope)
    assert first == [(0, "no_id"), (5, "no_content")]
    version = quarantine_table(workspace).version()
    assert after(workspace, found(*entries, run="run2"), scope) == first
    assert quarantine_table(workspace).version() == version
    assert set(quarantine_table(workspace).read()["run_id"].to_pylist()) == {"run1"}


def test_rows_without_an_id_spread_over_the_buckets() -> None:
    many = rejects(*((i, None, "no_id", None) for i in range(1_000)))
    rows = entries_for(many, stage="ingest", source="f", run_id="r", buckets=4)
    assert set(rows["bucket"].to_pylist()) == {0, 1, 2, 3}


P_WHOLE, P_IMAGE, NO_ID = (1, "p", "no_content", None), (2, "p", "image_missing", "image"), (3, None, "no_id", None)


@pytest.mark.parametrize(
    ("now", "scope", "accepted", "left"),
    [
        ([], Scope(files=("b",)), (), [1, 2, 3]),  # another file, which does not name the product
        ([], Scope(files=("b",)), ("p",), [3]),  # it has a good row there
        ([(9, "p", "no_content", None)], Scope(files=("b",)), (), [2, 3, 9]),  # and a bad one: what is stored stays
        ([(9, "p", "image_empty", "image")], Scope(files=("b",)), ("p",), [3, 9]),
        ([], Scope(files=("a",)), (), []),  # the same file, where nothing is bad now
        ([NO_ID], Scope(files=("a",)), ("p",), [3]),
        ([(1, "p", "no_text", None)], Scope(files=("a",)), (), [1, 2]),  # its image is as it was stored
        ([], Scope(files=("b",), snapshot=True), (), []),
        ([], Scope(rows=found(NO_ID)), (), [1, 2]),
        ([NO_ID], Scope(rows=found(NO_ID)), (), [1, 2, 3]),
        ([], Scope(rows=found(P_WHOLE)), ("p",), [3]),  # the row that is good now takes the place of the other
        ([], Scope(rows=found(P_IMAGE)), ("p",), [1, 3]),
    ],
)
def test_entries_hold_until_their_row_or_product_is_read_again(
    now: list[Any], scope: Scope, accepted: tuple[str, ...], left: list[int], workspace: Workspace
) -> None:
    after(workspace, found(P_WHOLE, P_IMAGE, NO_ID), Scope())
    later = found(*now, source=scope.files[0] if scope.files else "a")
    assert [at for at, _ in after(workspace, later, scope, accepted=accepted)] == left


def test_everything_of_a_removed_product_goes_and_other_stages_are_left_alone(workspace: Workspace) -> None:
    extracted = [(0, "p", "no_image", "image"), (1, "q", "no_image", "image")]
    rows = entries_for(rejects(*extracted), stage="extract", source="catalog", run_id="r", buckets=1)
    after(workspace, rows, Scope())
    assert after(workspace, found(), Scope(files=("a",), snapshot=True), accepted=("p", "q")) == [
        (0, "no_image"),
        (1, "no_image"),
    ]
    assert rejected_parts(quarantine_table(workspace).snapshot(), 0)["image"].to_pylist() == ["p", "q"]
    assert after(workspace, found(), Scope(files=("a",)), removed=("p",)) == [(1, "no_image")]


@pytest.mark.usefixtures("in_process")
def test_the_same_rows_again_change_nothing(workspace: Workspace, write_csv: WriteCsv) -> None:
    rows = [row(1), row("", "no id"), row(2, ""), row(3, photo="none.jpg"), row(1, "again"), row(4, top="a > b")]
    counts = take(workspace, write_csv(rows))
    assert (counts["rows"], counts["new"], counts["rejected"], counts["flawed"]) == (6, 3, 3, 5)
    assert counts["reasons"] == {"duplicate_id": 1, "no_content": 1, "no_id": 1}
    assert counts["part_reasons"] == {"bad_label": 1, "image_missing": 1}
    before, version = held(workspace), quarantine_table(workspace).version()
    again = take(workspace, write_csv(rows, "catalog.csv"))
    assert (again["unchanged"], again["rejected"]) == (3, 3)
    assert held(workspace) == before
    assert quarantine_table(workspace).version() == version


@pytest.mark.usefixtures("in_process")
def test_what_is_mended_leaves_quarantine_in_one_commit(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(1, photo="none.jpg"), row(2, ""), row("", "no id"), row(3, photo="none.jpg")]))
    version = quarantine_table(workspace).version()
    take(workspace, write_csv([row(1), row(2), row("", "x"), row(5, "")], "tonight.csv"))
    assert quarantine_table(workspace).version() == version + 1
    assert held(workspace) == [
        ("3", "image_missing", "catalog.csv"),
        ("5", "no_content", "tonight.csv"),
        (None, "no_id", "catalog.csv"),
        (None, "no_id", "tonight.csv"),
    ]
    take(workspace, write_csv([row(1), row(2), row(6, "has an id"), row(3)]))
    assert held(workspace) == [("5", "no_content", "tonight.csv"), (None, "no_id", "tonight.csv")]


@pytest.mark.usefixtures("in_process")
def test_a_duplicate_is_one_entry_whatever_else_is_wrong_with_it(workspace: Workspace, write_csv: WriteCsv) -> None:
    counts = take(workspace, write_csv([row(1), row(1, photo="none.jpg", top="a > b")]))
    assert (counts["reasons"], counts["part_reasons"]) == ({"duplicate_id": 1}, {})
    assert held(workspace) == [("1", "duplicate_id", "catalog.csv")]


@pytest.mark.usefixtures("in_process")
def test_a_snapshot_removes_what_it_does_not_name_and_keeps_what_it_names_badly(
    workspace: Workspace, write_csv: WriteCsv
) -> None:
    take(workspace, write_csv([row(1), row(2), row(3), row(4, photo="none.jpg")]))
    file = write_csv([row(1, "edited"), row(2, "")], "tonight.csv")
    counts = take(workspace, file)
    assert (counts["edited"], counts["removed"], len(products(workspace))) == (1, 0, 4)
    counts = take(workspace, file, snapshot=True)
    assert (counts["unchanged"], counts["rejected"], counts["removed"]) == (1, 1, 2)
    assert products(workspace) == {"1": "edited", "2": "a name"}
    assert held(workspace) == [("2", "no_content", "tonight.csv")]
    version = Catalog(workspace=workspace).table.version()
    take(workspace, file, snapshot=True)
    assert Catalog(workspace=workspace).table.version() == version


@pytest.mark.usefixtures("in_process")
def test_an_image_file_that_extraction_found_changed_is_read_again(
    workspace: Workspace, write_csv: WriteCsv, tmp_path: Path
) -> None:
    file = write_csv([row(1, photo="1.png"), row(2)])
    Image.new("RGB", (8, 8), "red").save(tmp_path / "1.png")
    assert take(workspace, file)["new"] == 2
    Image.new("RGB", (8, 8), "green").save(tmp_path / "1.png")
    assert take(workspace, file)["new"] == 2  # the ledger's last entry: nothing says that a file has changed
    changed = rejects((0, "1", "image_changed", "image"))
    entries = entries_for(changed, stage="extract", source="catalog", run_id="r", buckets=2)
    quarantine_table(workspace).commit(quarantine_table(workspace).write_buckets(entries), app_id="r")
    counts = take(workspace, file)
    assert (counts["edited"], counts["unchanged"]) == (1, 1)


def versions(workspace: Workspace) -> list[int]:
    catalog = Catalog(workspace=workspace)
    tables = (catalog.table, catalog.images, catalog.splits, quarantine_table(workspace))
    return [table.version() for table in tables]


@pytest.mark.usefixtures("in_process")
def test_a_snapshot_that_is_cut_short_is_refused(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv([row(i, top="x") for i in range(SMALL_CATALOG)]))
    before, run = versions(workspace), last_run(workspace, "ingest")
    half = SMALL_CATALOG // 2
    cut = write_csv([row(i, "edited", top="x") for i in range(half - 1)] + [row("", "no id")], "cut.csv")
    with pytest.raises(RefusedToPublishError, match="would remove 51 of 100 products, more than 50%"):
        take(workspace, cut, snapshot=True)
    assert versions(workspace) == before
    assert last_run(workspace, "ingest") == run
    counts = take(workspace, write_csv([row(i, top="x") for i in range(half)], "half.csv"), snapshot=True)
    assert (counts["unchanged"], counts["removed"]) == (half, half)
    assert take(workspace, write_csv([row(0, top="x")], "one.csv"), snapshot=True)["removed"] == half - 1

"""What is handed to other systems: all that is published, or the net changes since a run, of one version."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch.errors import InputError
from mmbatch.export import CHANGES, PREDICTIONS, changed_since, check_out, net_changes, published
from mmbatch.workspace import Workspace
from tests.published_tables import add_changes, add_run, change, new_workspace, prediction, publish

PRODUCTS = [f"p{number}" for number in range(9)]
Row = dict[str, Any]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_workspace(tmp_path)


def net(*rows: Row, runs: tuple[str, ...] = ("1", "2", "3")) -> list[Row]:
    found: list[Row] = net_changes(pa.Table.from_pylist(list(rows), CHANGES), pa.array(runs, pa.string())).to_pylist()
    return found


def since(workspace: Workspace, run_id: str) -> dict[str, str]:
    """Product -> its run, of the changes since a run."""
    parts = pa.concat_tables(list(changed_since(workspace, run_id).parts()))
    return dict(zip(parts["product_id"].to_pylist(), parts["run_id"].to_pylist(), strict=True))


def test_all_predictions_of_one_version_are_written(workspace: Workspace, tmp_path: Path) -> None:
    publish(workspace, *map(prediction, PRODUCTS))
    add_run(workspace, "one", minute=1)
    export = published(workspace)
    publish(workspace, prediction("later"), app_id="two")
    add_run(workspace, "two", minute=2)
    assert export.write(str(tmp_path / "a.parquet")) == export.rows() == export.stored() == len(PRODUCTS)
    written = pq.read_table(tmp_path / "a.parquet")
    assert written.schema.equals(PREDICTIONS)
    assert (
        sorted(written.to_pylist(), key=lambda row: row["product_id"])
        == pa.Table.from_pylist(list(map(prediction, PRODUCTS)), PREDICTIONS).to_pylist()
    )
    assert (export.snapshot.version, export.until) == (1, "one")
    assert published(workspace).until == "two"


def test_chosen_columns_keep_their_order(workspace: Workspace, tmp_path: Path) -> None:
    publish(workspace, prediction("p"))
    published(workspace, ("category", "product_id")).write(str(tmp_path / "a.csv"))
    assert (tmp_path / "a.csv").read_text() == '"category","product_id"\n"Home > Lamps","p"\n'


@pytest.mark.parametrize("columns", [("product_id", "price"), ("bucket",), ("category", "category")])
def test_columns_that_are_not_there_are_refused(workspace: Workspace, columns: tuple[str, ...]) -> None:
    publish(workspace, prediction("p"))
    with pytest.raises(InputError, match=r"--columns \w+.*: expected each at most once, of product_id, label, "):
        published(workspace, columns)


def test_where_nothing_is_published_nothing_is_written(workspace: Workspace) -> None:
    with pytest.raises(InputError, match=r"w: nothing is published there yet; `jobs.predict` publishes"):
        published(workspace)


def test_one_change_is_its_own_net_change() -> None:
    rows = [change("a", "x", "y", "1", differing=["image", "title"]), change("b", None, "x", "1")]
    rows += [change("c", "x", None, "2"), change("d", "x", "x", "1", decided_before=None)]
    assert net(*reversed(rows)) == rows


def test_no_change_is_no_net_change() -> None:
    assert net() == []


def test_the_net_change_is_from_before_the_first_to_after_the_last() -> None:
    rows = [
        change("a", "y", "z", "2", confidence_before=0.75, differing=["image", "title"]),
        change("a", "x", "y", "1", confidence_before=0.5, differing=["encoder", "image"]),
        change("a", "z", "w", "3", confidence_after=0.125, reason="head", differing=["head"]),
        change("b", "x", "z", "2"),
    ]
    joined = change("a", "x", "w", "3", confidence_after=0.125, reason="head")
    expected = joined | {"differing": ["encoder", "head", "image", "title"]}
    assert net(*rows) == [expected, rows[-1]]


def test_runs_count_in_the_order_of_the_ledger_and_unknown_ones_are_last() -> None:
    rows = [change("a", "x", "y", "b"), change("a", "y", "z", "a"), change("a", "z", "w", "0-unknown")]
    assert net(*rows, runs=("b", "a")) == [change("a", "x", "w", "0-unknown")]


def test_a_product_that_came_back_to_what_it_was_is_left_out() -> None:
    back = [change("a", "x", "y", "1"), change("a", "y", "x", "2", confidence_after=0.875)]
    gone = [change("b", None, "x", "1"), change("b", "x", None, "3")]
    again = [change("c", "x", None, "1"), change("c", None, "x", "2")]
    assert net(*back, *gone, *again) == []
    undecided = [change("d", "x", "y", "1"), change("d", "y", "x", "2", decided_after=None)]
    assert net(*undecided) == [change("d", "x", "x", "2", decided_after=None)]


def test_a_product_to_be_reviewed_is_not_one_without_a_prediction() -> None:
    rows = [
        change("a", None, None, "1", confidence_after=0.5, reason="new"),
        change("b", None, None, "1", confidence_before=0.5, reason="removed"),
    ]
    assert net(*rows) == rows


def test_the_reason_says_what_became_of_the_product_between() -> None:
    new = [change("a", None, "x", "1"), change("a", "x", "y", "2")]
    removed = [change("b", "x", "y", "1"), change("b", "y", None, "2")]
    returned = [change("c", "x", None, "1"), change("c", None, "y", "2"), change("c", "y", "z", "3")]
    assert [(row["product_id"], row["reason"]) for row in net(*new, *removed, *returned)] == [
        ("a", "new"),
        ("b", "removed"),
        ("c", "title"),
    ]


def test_changes_since_a_run_are_those_of_later_runs(workspace: Workspace) -> None:
    for minute, run in enumerate(("z1", "y2", "x3")):
        add_run(workspace, run, minute=minute)
    add_changes(workspace, *(change(f"p{run}", "a", "b", run) for run in ("z1", "y2", "x3", "killed")))
    assert since(workspace, "z1") == {"py2": "y2", "px3": "x3", "pkilled": "killed"}
    assert since(workspace, "x3") == {"pkilled": "killed"}
    assert changed_since(workspace, "z1").until == "x3"


def test_a_run_within_another_counts_by_when_it_ended(workspace: Workspace) -> None:
    add_run(workspace, "night", minute=1, seconds=600, job="nightly")
    add_run(workspace, "encoded", minute=2, seconds=60, job="extract_features")
    add_changes(workspace, change("p", "a", "b", "night"))
    assert since(workspace, "encoded") == {"p": "night"}
    assert since(workspace, "night") == {}
    add_run(workspace, "inner", minute=4, seconds=60, job="predict")
    add_changes(workspace, change("q", "a", "b", "inner"))
    assert since(workspace, "encoded") == {"p": "night", "q": "inner"}
    assert since(workspace, "night") == {}


def test_following_exports_give_what_is_published(workspace: Workspace) -> None:
    add_run(workspace, "1", minute=1)
    publish(workspace, prediction("a", category="x"), prediction("b", category="x"))
    export = published(workspace, ("product_id", "category"))
    held = dict(zip(*pa.concat_tables(list(export.parts())).to_pydict().values(), strict=True))
    add_changes(workspace, change("a", "x", "y", "2"), change("c", None, "z", "2"))
    add_run(workspace, "2", minute=2)
    add_changes(workspace, change("a", "y", "w", "3"), change("b", "x", None, "3"))
    add_run(workspace, "3", minute=3)
    assert export.until is not None
    later = changed_since(workspace, export.until)
    for row in pa.concat_tables(list(later.parts())).to_pylist():
        if row["reason"] == "removed":
            del held[row["product_id"]]
        else:
            held[row["product_id"]] = row["category_after"]
    assert held == {"a": "w", "c": "z"}
    assert (later.rows(), later.stored()) == (3, 4)
    assert later.until == "3"
    assert changed_since(workspace, "3", ("product_id",)).rows() == 0


def test_a_workspace_without_changes_has_none(workspace: Workspace, tmp_path: Path) -> None:
    add_run(workspace, "1", minute=1)
    export = changed_since(workspace, "1", ("product_id", "reason"))
    assert export.write(str(tmp_path / "a.csv")) == 0
    assert (tmp_path / "a.csv").read_text() == '"product_id","reason"\n'


def test_a_run_that_the_ledger_does_not_name_is_refused_with_the_last_ones(workspace: Workspace) -> None:
    with pytest.raises(InputError, match=r"the last ones are none: it is empty$"):
        changed_since(workspace, "typo")
    for minute in range(7):
        add_run(workspace, f"run{minute}", minute=minute)
    with pytest.raises(InputError, match=r"^--changes-since typo: found no such run .* run6 \(nightly\), .* run2 \(ni"):
        changed_since(workspace, "typo")
    with pytest.raises(InputError, match=r"--columns price: .* of product_id, category_before, "):
        changed_since(workspace, "run6", ("price",))


def test_places_that_nothing_is_exported_to(workspace: Workspace, tmp_path: Path) -> None:
    check_out(workspace, str(tmp_path / "a.csv"))
    check_out(workspace, str(tmp_path / "w2.csv"))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link").symlink_to(workspace.uri)
    for place in ("w", "w/../w/reports", "link"):
        with pytest.raises(InputError, match=r"a\.csv: found a place inside the workspace"):
            check_out(workspace, str(tmp_path / place / "a.csv"))
    with pytest.raises(InputError, match=r"folder\.csv: found a folder, expected the name of a file"):
        check_out(workspace, str(tmp_path / "folder.csv"))
    with pytest.raises(InputError, match=r"--out .*: expected a name that ends in \.csv"):
        check_out(workspace, str(tmp_path))


def test_a_link_to_another_place_is_followed_the_other_way_too(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(workspace.uri)
    with pytest.raises(InputError, match=r"a place inside the workspace"):
        check_out(Workspace.open(str(tmp_path / "link")), f"file://{workspace.uri}/a.csv")

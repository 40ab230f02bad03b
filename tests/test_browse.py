"""What is browsed of made tables."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.browse import Browser, Place, State, Wanted
from mmbatch.catalog import Catalog
from mmbatch.corrections import Correction, Corrections
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace
from tests.published_tables import add_changes, change, commit, new_workspace, prediction, publish

HOSTILE = "<script>alert(1)</script> lamp"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Forty products: every fourth has a wrong label, every second none; the first title is hostile."""
    made = new_workspace(tmp_path)
    empty = dict.fromkeys(schema.CATALOG.names)
    names = [f"p{number:02d}" for number in range(40)]
    labels = [None if number % 2 else ["Toys" if number % 4 else "Home"] for number in range(40)]
    titles = [HOSTILE, *(f"Lamp number {number}" for number in range(1, 40))]
    products = [
        empty | {"product_id": name, "label": label, "title": title}
        for name, label, title in zip(names, labels, titles, strict=True)
    ]
    catalog = Catalog(workspace=made)
    commit(catalog.table, products, "made")
    splits = [{"product_id": name, "split": "test" if place < 20 else "train"} for place, name in enumerate(names)]
    commit(catalog.splits, splits, "made")
    sure = {number: number / 40 for number in range(40)}
    publish(
        made,
        *(
            prediction(
                name, category="Home", confidence=sure[number], decision="accepted" if sure[number] > 0.5 else "review"
            )
            for number, name in enumerate(names)
        ),
    )
    return made


def ids(rows: pa.Table) -> list[str]:
    return sorted(rows["product_id"].to_pylist())


def every(workspace: Workspace, wanted: Wanted, limit: int = 24) -> list[str]:
    """All pages of a search."""
    browser, place, found = Browser.open(workspace), Place(), []
    while place is not None:
        page = browser.find(wanted, start=place, limit=limit)
        assert page.rows.num_rows <= limit
        found += page.rows["product_id"].to_pylist()
        place = page.next
    assert len(set(found)) == len(found), "no product twice"
    return sorted(found)


@pytest.mark.parametrize("limit", [1, 7, 24, 1_000])
def test_pages_show_every_product_once(workspace: Workspace, limit: int) -> None:
    assert every(workspace, Wanted(), limit) == [f"p{number:02d}" for number in range(40)]


def test_filters_choose_what_they_say(workspace: Workspace) -> None:
    assert every(workspace, Wanted(decision="accepted")) == [f"p{number}" for number in range(21, 40)]
    assert every(workspace, Wanted(least=0.25, most=0.3)) == ["p10", "p11", "p12"]
    assert every(workspace, Wanted(category="Toys")) == []
    assert len(every(workspace, Wanted(labels="unlabelled"))) == 20
    assert every(workspace, Wanted(labels="wrong", split="test")) == ["p02", "p06", "p10", "p14", "p18"]
    assert every(workspace, Wanted(label="Toys")) == [f"p{number:02d}" for number in range(2, 40, 4)]


def test_words_are_an_id_or_parts_of_a_title(workspace: Workspace) -> None:
    assert every(workspace, Wanted(words="p07")) == ["p07"]
    assert every(workspace, Wanted(words="NUMBER lamp 39")) == ["p39"]
    assert every(workspace, Wanted(words="<script>")) == ["p00"]
    assert every(workspace, Wanted(words=".*")) == [], "words, not patterns"


def test_a_product_says_what_the_catalog_says_of_it(workspace: Workspace) -> None:
    rows = Browser.open(workspace).product("p00")
    assert rows is not None
    [row] = rows.to_pylist()
    assert (row["title"], row["label"], row["category"]) == (HOSTILE, "Home", "Home")
    assert Browser.open(workspace).product("p99") is None


def test_the_overview_counts_categories_and_decisions(workspace: Workspace) -> None:
    rows = Browser.open(workspace).overview().to_pylist()
    assert [(row["category"], row["decision"], row["products"]) for row in rows] == [
        ("Home", "review", 21),
        ("Home", "accepted", 19),
    ]
    assert rows[0]["confidence"] == pytest.approx(0.25)


def test_the_confusion_matrix_follows_corrections_and_the_tree(workspace: Workspace) -> None:
    cells = Browser.open(workspace).confusion("test").to_pylist()
    assert {(cell["label"], cell["category"]): cell["products"] for cell in cells} == {
        ("Home", "Home"): 5,
        ("Toys", "Home"): 5,
    }
    said = Correction(product_id="p02", label=["Home"], label_before=["Toys"], author="ada", run_id="one")
    Corrections(workspace=workspace).add(said)
    TaxonomyHistory.read(workspace).add(workspace, {("Toys",): (("Games",),)})
    cells = Browser.open(workspace).confusion("test").to_pylist()
    assert {cell["label"]: cell["products"] for cell in cells} == {"Home": 6, "Games": 4}


def test_changes_of_a_run_by_reason(workspace: Workspace) -> None:
    rows = [change(f"c{number}", None, "Home", "one") for number in range(30)]
    add_changes(workspace, *rows, change("d", "Home", "Toys", "one"), change("e", "Home", "Toys", "two"))
    browser = Browser.open(workspace)
    assert browser.changes("one", "title")["product_id"].to_pylist() == ["d"]
    assert browser.changes("one", None, limit=7).num_rows == 7
    assert browser.changes("two", None)["product_id"].to_pylist() == ["e"]


def test_whatever_is_written_makes_another_state(workspace: Workspace) -> None:
    states = [State.of(workspace)]
    Corrections(workspace=workspace).add(
        Correction(product_id="p02", label=["Home"], label_before=None, author="ada", run_id=None)
    )
    states.append(State.of(workspace))
    TaxonomyHistory.read(workspace).add(workspace, {("Toys",): (("Games",),)})
    states.append(State.of(workspace))
    publish(workspace, prediction("new"), app_id="two")
    states.append(State.of(workspace))
    assert len(set(states)) == 4
    assert states[-1] == State.of(workspace)


def test_a_workspace_without_anything_is_browsed_too(tmp_path: Path) -> None:
    made = replace(new_workspace(tmp_path))
    browser = Browser.open(made)
    assert browser.find(Wanted(words="lamp", labels="wrong")).rows.num_rows == 0
    assert browser.overview().num_rows == 0
    assert browser.confusion("test").num_rows == 0
    assert browser.changes("one", None).num_rows == 0

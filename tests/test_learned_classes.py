from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbatch.catalog import Catalog
from mmbatch.corrections import Correction, Corrections
from mmbatch.errors import LostRaceError
from mmbatch.learned_classes import among, fix_classes, fixed_classes, most_frequent
from mmbatch.pipelines.ingest import ingest
from mmbatch.sources import Columns
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Settings, Workspace

WriteCsv = Callable[..., Path]

COLUMNS = Columns(id="sku", title="name", label=("top",))
EDITS = {("Toys",): (("Games",), ("Dolls",)), ("Bag",): (("Luggage",),), ("Case",): (("Luggage",),)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    settings = Settings(preset="sample", level=1, seed=0, buckets=2, top_classes=2)
    return Workspace.create(str(tmp_path / "w"), settings)


def products(**classes: int) -> list[dict[str, Any]]:
    """So many products of each class."""
    return [
        {"sku": f"{top}{n}", "name": f"{top} {n}", "top": top} for top, count in classes.items() for n in range(count)
    ]


def take(workspace: Workspace, file: Path, **how: bool) -> int:
    split: int = ingest(workspace, source=str(file), columns=COLUMNS, **how)["counts"]["labelled_products_split"]
    return split


def labelled(workspace: Workspace) -> Counter[str]:
    return Counter(Catalog(workspace=workspace).labels()["category"].to_pylist())


def test_classes_with_as_many_products_are_chosen_by_name() -> None:
    assert most_frequent({"e": 3, "c": 3, "a": 1, "b": 3, "d": 4}, 3) == ["b", "c", "d"]
    assert most_frequent({"b": 1, "a": 1}, 10) == ["a", "b"]


def test_classes_are_fixed_once(workspace: Workspace) -> None:
    assert fixed_classes(workspace) is None
    fix_classes(workspace, ["b", "Ä"])
    assert fixed_classes(workspace) == {"b", "Ä"}
    with pytest.raises(LostRaceError, match=r"classes\.json: another run"):
        fix_classes(workspace, ["c"])
    assert fixed_classes(workspace) == {"b", "Ä"}


def test_edits_of_the_tree_go_on_with_what_is_learned() -> None:
    names = ["Toys", "Games", "Dolls", "Bag", "Case", "Luggage", "Fax"]
    assert among(names, frozenset({"Toys", "Fax"}), TaxonomyHistory()) == ["Fax", "Toys"]
    history = TaxonomyHistory((EDITS, {("Fax",): ()}))
    assert among(names, frozenset({"Toys"}), history) == ["Dolls", "Games", "Toys"]
    assert among(names, frozenset({"Bag"}), history) == ["Bag", "Case", "Luggage"]  # merged, so these are one class now
    assert among(names, frozenset({"Fax"}), history) == ["Fax"]  # removed: evaluation counts what it leaves out


@pytest.mark.usefixtures("in_process")
def test_products_of_other_classes_are_as_if_unlabelled(
    workspace: Workspace, write_csv: WriteCsv, capsys: pytest.CaptureFixture[str]
) -> None:
    assert take(workspace, write_csv(products(many=6, few=3, tie=3, rare=1))) == 9
    assert labelled(workspace) == {"many": 6, "few": 3}
    said = "the 2 most frequent of 4 are learned from now on, with 9 of 13 labelled products: few, many\n"
    assert said in capsys.readouterr().err
    catalog = Catalog(workspace=workspace)
    assert (catalog.keys().num_rows, catalog.splits.read().num_rows) == (13, 9)


@pytest.mark.usefixtures("in_process")
def test_what_people_say_decides_whether_a_product_is_of_a_learned_class(
    workspace: Workspace, write_csv: WriteCsv
) -> None:
    file = write_csv(products(many=6, few=3, rare=1))
    take(workspace, file)
    for product, label in (("rare0", "few"), ("many0", "rare")):
        said = Correction(product_id=product, label=[label], label_before=None, author="ada", run_id=None)
        Corrections(workspace=workspace).add(said)
    assert labelled(workspace) == {"many": 5, "few": 4}
    take(workspace, file)
    assert Catalog(workspace=workspace).labels()["split"].null_count == 0


@pytest.mark.usefixtures("in_process")
def test_no_night_changes_which_classes_are_learned(workspace: Workspace, write_csv: WriteCsv) -> None:
    take(workspace, write_csv(products(many=6, few=3, rare=1)))
    assert take(workspace, write_csv(products(many=7, few=1, rare=20), "tonight.csv"), snapshot=True) == 1
    assert labelled(workspace) == {"many": 7, "few": 1}
    assert fixed_classes(workspace) == {"few", "many"}


@pytest.mark.usefixtures("in_process")
def test_classes_are_counted_when_there_are_labels(workspace: Workspace, write_csv: WriteCsv) -> None:
    assert take(workspace, write_csv([{"sku": "a", "name": "a name", "top": ""}])) == 0
    assert fixed_classes(workspace) is None
    assert take(workspace, write_csv(products(one=3), "labelled.csv")) == 3
    assert fixed_classes(workspace) == {"one"}


@pytest.mark.usefixtures("in_process")
def test_all_classes_are_learned_where_no_number_is_set(tmp_path: Path, write_csv: WriteCsv) -> None:
    workspace = Workspace.create(str(tmp_path / "all"), Settings(preset="sample", level=1, seed=0, buckets=2))
    assert take(workspace, write_csv(products(many=6, few=3, rare=1))) == 10
    assert labelled(workspace) == {"many": 6, "few": 3, "rare": 1}
    assert not (tmp_path / "all" / "classes.json").exists()

"""What people say of a product stands over what the source says."""

from pathlib import Path

import pytest

from mmbatch import schema
from mmbatch.catalog import Catalog
from mmbatch.corrections import Correction, Corrections
from mmbatch.epochs import Epoch
from mmbatch.fusion.taxonomy_edits import Edits
from mmbatch.pipelines.ingest import assign_splits
from mmbatch.pipelines.rows import training_labels
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace
from tests.published_tables import commit, new_workspace

LABELS = {"p0": ["Home", "Pans"], "p1": ["Home", "Pots"], "p2": None}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = new_workspace(tmp_path)
    empty = dict.fromkeys(schema.CATALOG.names)
    rows = [empty | {"product_id": name, "label": label, "text_hash": name} for name, label in LABELS.items()]
    commit(Catalog(workspace=made).table, rows, "made")
    return made


def correct(workspace: Workspace, product: str, *label: str) -> str:
    said = Correction(
        product_id=product, label=label or None, label_before=LABELS[product], author="ada", run_id="night"
    )
    return Corrections(workspace=workspace).add(said)


def labels(workspace: Workspace) -> dict[str, str]:
    rows = Catalog(workspace=workspace).labels()
    return dict(zip(rows["product_id"].to_pylist(), rows["category"].to_pylist(), strict=True))


def edit(workspace: Workspace, edits: Edits) -> None:
    TaxonomyHistory.read(workspace).add(workspace, edits)


def test_the_newest_correction_of_a_product_counts(workspace: Workspace) -> None:
    assert labels(workspace) == {"p0": "Home", "p1": "Home"}
    correct(workspace, "p0", "Toys", "Cars")
    correct(workspace, "p0", "Garden")
    assert labels(workspace) == {"p0": "Garden", "p1": "Home"}
    correct(workspace, "p0", "Toys", "Cars")
    assert labels(workspace)["p0"] == "Toys", "cut to the workspace's level"


def test_a_row_says_what_who_and_when(workspace: Workspace) -> None:
    correction_id = correct(workspace, "p0", "Toys")
    [row] = Corrections(workspace=workspace).table.read().to_pylist()
    assert row.pop("corrected").tzinfo is not None
    bucket = int(schema.bucket_of(["p0"], workspace.settings.buckets)[0])
    said = {"product_id": "p0", "label": ["Toys"], "label_before": ["Home", "Pans"], "author": "ada"}
    assert row == said | {"run_id": "night", "correction_id": correction_id, "bucket": bucket}


def test_a_product_without_a_label_has_one_and_is_drawn_into_a_split(workspace: Workspace) -> None:
    correct(workspace, "p2", "Toys")
    assert labels(workspace)["p2"] == "Toys"
    assert assign_splits(Catalog(workspace=workspace)) == 3
    assert Catalog(workspace=workspace).labels()["split"].null_count == 0


def test_one_that_is_taken_back_counts_no_more(workspace: Workspace) -> None:
    correct(workspace, "p0", "Toys")
    correct(workspace, "p2", "Toys")
    for product in ("p0", "p2"):
        correct(workspace, product)
    assert labels(workspace) == {"p0": "Home", "p1": "Home"}


def test_one_of_a_category_that_was_removed_is_void_and_of_a_renamed_one_is_not(workspace: Workspace) -> None:
    correct(workspace, "p0", "Toys")
    correct(workspace, "p1", "Garden")
    edit(workspace, {("Toys",): (), ("Garden",): (("Outdoors",),)})
    assert labels(workspace) == {"p0": "Home", "p1": "Garden"}, "as catalogs keep the names that they have"
    edit(workspace, {("Outdoors",): (("Balcony",), ("Lawn",))})
    assert labels(workspace) == {"p0": "Home", "p1": "Home"}, "split: nobody knows which part is meant"


def test_a_run_has_the_labels_of_its_beginning_and_keeps_nobody_waiting(workspace: Workspace) -> None:
    correct(workspace, "p0", "Toys")
    with workspace.writing("train") as owned:
        correct(workspace, "p0", "Garden")
        assert labels(owned)["p0"] == "Toys"
        assert labels(workspace)["p0"] == "Garden"
    with workspace.writing("train") as owned:
        assert labels(owned)["p0"] == "Garden"


def test_a_run_that_began_before_the_first_correction_has_none(workspace: Workspace) -> None:
    with workspace.writing("train") as owned:
        correct(workspace, "p0", "Toys")
        assert labels(owned)["p0"] == "Home"


def test_a_table_that_is_fenced_can_be_corrected(workspace: Workspace) -> None:
    correct(workspace, "p0", "Toys")
    with workspace.writing("later") as owned:
        assert isinstance(owned.epoch, Epoch)
        Corrections(workspace=owned).table.fence(owned.epoch)
        correct(workspace, "p0", "Garden")
    assert labels(workspace)["p0"] == "Garden"


def test_training_has_corrected_labels_and_another_digest(tmp_path: Path) -> None:
    made = new_workspace(tmp_path)
    names = [f"p{number}" for number in range(60)]
    empty = dict.fromkeys(schema.CATALOG.names)
    rows = [
        empty | {"product_id": name, "label": ["Home" if number % 2 else "Toys"], "text_hash": name}
        for number, name in enumerate(names)
    ]
    commit(Catalog(workspace=made).table, rows, "made")
    assign_splits(Catalog(workspace=made))
    before = training_labels(Catalog(workspace=made))
    chosen = before.rows.loc[(before.rows["split"] == "train") & (before.rows["category"] == "Home"), "product_id"]
    said = Correction(product_id=chosen.iloc[0], label=["Toys"], label_before=["Home"], author="ada", run_id=None)
    Corrections(workspace=made).add(said)
    after = training_labels(Catalog(workspace=made))
    assert after.rows.set_index("product_id").loc[chosen.iloc[0], "category"] == "Toys"
    assert after.digest("text") != before.digest("text"), "so that an encoder is trained again"

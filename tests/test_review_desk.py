"""The queue, less what people have said, and what they say."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch import review_desk
from mmbatch.browse import Browser
from mmbatch.catalog import Catalog
from mmbatch.corrections import Corrections
from mmbatch.errors import InputError
from mmbatch.models import Model
from mmbatch.review import QUEUE
from mmbatch.review_desk import Queue, choices, correction, question
from mmbatch.runs import Run
from mmbatch.schema import CATALOG
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace
from tests.published_tables import commit, new_workspace

PRODUCT: dict[str, Any] = {"product_id": "b", "label": "Home", "category": "Toys", "run_id": "one"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = new_workspace(tmp_path)
    names = ("a", "b", "c")
    commit(Catalog(workspace=made).table, [dict.fromkeys(CATALOG.names) | {"product_id": name} for name in names], "m")
    rows = [
        dict.fromkeys(QUEUE.names) | {"product_id": name, "priority": priority, "reasons": ["abstained"], "bucket": 0}
        for name, priority in zip(names, (0.5, 2.5, 1.5), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=QUEUE), tmp_path / "queue.parquet")
    Run(workspace=made, job="review").finish({"queue": str(tmp_path / "queue.parquet")})
    return made


def test_the_most_urgent_comes_first_and_who_is_labelled_comes_no_more(workspace: Workspace) -> None:
    queue = Queue.read(workspace)
    assert queue.rows["product_id"].to_pylist() == ["b", "c", "a"]
    said = correction(PRODUCT, "Toys", known={}, author="ada")
    Corrections(workspace=workspace).add(said)
    assert queue.left(Browser.open(workspace))["product_id"].to_pylist() == ["c", "a"]
    Corrections(workspace=workspace).add(correction(PRODUCT, None, known={}, author="ada"))
    assert queue.left(Browser.open(workspace))["product_id"].to_pylist() == ["b", "c", "a"]


def test_without_a_review_one_is_told_what_to_run(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "queue.parquet").unlink()
    with pytest.raises(InputError, match=r"run python -m jobs\.review"):
        Queue.read(workspace)


def test_a_correction_says_what_was_before_and_what_was_seen() -> None:
    said = correction(PRODUCT, "Home > New pans", known={"Home > New pans": ("Home", "Pans")}, author="ada")
    assert (said.label, said.label_before, said.run_id, said.author) == (("Home", "Pans"), ["Home"], "one", "ada")
    assert correction(PRODUCT | {"label": None}, "A > B", known={}, author="ada").label == ("A", "B")


def test_a_doubted_label_is_asked_about_by_what_models_say_instead() -> None:
    assert question(PRODUCT, "Home > Pans") == "Home > Pans"
    assert question(PRODUCT, None) == "Toys"


def test_choices_have_the_names_of_today_and_stand_for_those_of_the_catalog(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = (("Garden",), ("Home", "Pans"), ("Home", "Pots"), ("Toys",))
    monkeypatch.setattr(review_desk, "stored_categories", lambda _: trained)
    edits = {("Home", "Pans"): (("Kitchen",),), ("Garden",): (("Lawn",), ("Balcony",)), ("Toys",): ()}
    TaxonomyHistory.read(workspace).add(workspace, edits)
    model = Model(kind="predictor", id="p@1", uri="", card={})
    assert choices(workspace, model) == {
        "Balcony": ("Balcony",),
        "Home > Pots": ("Home", "Pots"),
        "Kitchen": ("Home", "Pans"),
        "Lawn": ("Lawn",),
    }

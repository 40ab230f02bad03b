from typing import Any

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.changes import COMPARED, Lineage, Tally, compare, returning
from mmbatch.fusion.taxonomy_edits import Edits
from mmbatch.taxonomy_history import TaxonomyHistory

LINEAGE = Lineage(
    encoders={"p@1": ["text@1", "image@1"], "p@2": ["image@1", "text@1"], "p@3": ["text@2", "image@1"]},
    history=TaxonomyHistory(),
)
SAME = {
    "category": "toys", "decided_category": "toys", "decision": "accepted", "confidence": 0.5, "predictor": "p@1",
    "text_hash": "t", "title_hash": 1, "description_hash": 2, "image_hash": "i",
}  # fmt: skip


def rows(*products: dict[str, Any]) -> pa.Table:
    given = [SAME | {"product_id": "a"} | product for product in products]
    fields = pa.schema([schema.PREDICTIONS.field(name) for name in COMPARED])
    return pa.Table.from_pylist(given, schema=fields)


def changes(before: pa.Table, after: pa.Table, lineage: Lineage = LINEAGE, **more: Any) -> list[dict[str, Any]]:
    found = compare(before, after, lineage=lineage, run_id="r", bucket=3, **more).changes
    assert found.schema.equals(schema.CHANGES)
    return found.to_pylist()


@pytest.mark.parametrize(
    ("edit", "reason", "differing"),
    [
        ({"title_hash": 9, "text_hash": "u"}, "title", ["title"]),
        ({"description_hash": 9, "text_hash": "u"}, "description", ["description"]),
        ({"description_hash": None, "title_hash": 9, "text_hash": "u"}, "title", ["title", "description"]),
        ({"text_hash": None}, "title", ["title"]),  # a text that cannot be used any more
        ({"text_hash": None, "title_hash": None}, "title", ["title"]),
        ({"image_hash": "j"}, "image", ["image"]),
        ({"image_hash": None, "predictor": "p@2"}, "image", ["image", "head"]),
        ({"predictor": "p@2"}, "head", ["head"]),
        ({"predictor": "p@3"}, "encoder", ["encoder"]),
        ({"predictor": "p@3+taxonomy-000001@x"}, "encoder", ["encoder", "taxonomy"]),
        ({"predictor": "gone@1"}, "encoder", ["encoder"]),
        ({"predictor": "p@1+taxonomy-000001@x"}, "taxonomy", ["taxonomy"]),
        ({}, "recomputed", []),
    ],
)
def test_a_change_is_explained_by_what_differs(edit: dict[str, Any], reason: str, differing: list[str]) -> None:
    (found,) = changes(rows({}), rows({"category": "books", "confidence": 0.25} | edit))
    assert (found["reason"], found["differing"]) == (reason, differing)
    assert (found["category_before"], found["category_after"]) == ("toys", "books")
    assert (found["confidence_before"], found["confidence_after"], found["bucket"]) == (0.5, 0.25, 3)


def test_new_and_removed_products_are_changes_and_the_same_category_is_none() -> None:
    before = rows({"product_id": "stays"}, {"product_id": "gone"})
    after = rows({"product_id": "stays", "title_hash": 7, "confidence": 0.9}, {"product_id": "fresh"})
    found = {row["product_id"]: row for row in changes(before, after)}
    assert {key: row["reason"] for key, row in found.items()} == {"gone": "removed", "fresh": "new"}
    assert (found["fresh"]["category_before"], found["fresh"]["confidence_before"]) == (None, None)
    assert (found["gone"]["category_after"], found["gone"]["decided_after"]) == (None, None)


def test_another_decision_about_the_same_category_is_a_change() -> None:
    (found,) = changes(rows({}), rows({"decided_category": None, "decision": "review", "predictor": "p@2"}))
    assert (found["reason"], found["decided_before"], found["decided_after"]) == ("head", "toys", None)


def test_nothing_published_before_and_nothing_after() -> None:
    assert [row["reason"] for row in changes(rows(), rows({}))] == ["new"]
    assert [row["reason"] for row in changes(rows({}), rows())] == ["removed"]
    assert changes(rows(), rows()) == []


def test_a_renamed_category_is_the_taxonomys_doing_whatever_else_was_edited() -> None:
    edits: Edits = {("toys",): (("games",),)}
    lineage = Lineage(encoders=LINEAGE.encoders, history=TaxonomyHistory((edits,)))
    now = {"predictor": "p@1+taxonomy-000001@x", "title_hash": 8, "text_hash": "u"}
    before = rows({"product_id": "renamed"}, {"product_id": "moved"})
    after = rows(
        {"product_id": "renamed", "category": "games"} | now, {"product_id": "moved", "category": "books"} | now
    )
    compared = compare(before, after, lineage=lineage, run_id="r", bucket=0)
    reasons = dict(zip(*(compared.changes[name].to_pylist() for name in ("product_id", "reason")), strict=True))
    assert reasons == {"renamed": "taxonomy", "moved": "title"}
    tally = Tally.of(before, after, compared)
    assert (tally.counts["changes"], tally.counts["changed"], dict(tally.left)) == (2, 1, {"toys": 1})


def test_a_rollback_is_the_only_reason_that_it_gives() -> None:
    found = changes(rows({}, {"product_id": "b"}), rows({"category": "books", "title_hash": 3}), rollback=True)
    assert [row["reason"] for row in found] == ["rollback", "rollback"]


def test_tallies_add_up_and_survive_as_json() -> None:
    before = rows({"product_id": "a"}, {"product_id": "b", "decision": "review"}, {"product_id": "c"})
    after = rows({"product_id": "a", "category": "books", "title_hash": 5}, {"product_id": "b"}, {"product_id": "d"})
    tally = Tally.of(before, after, compare(before, after, lineage=LINEAGE, run_id="r", bucket=0))
    total = Tally.from_json(tally.to_json())
    assert total == tally
    total.add(Tally.of(before.slice(0, 1), before.slice(0, 1)))
    assert total.counts == {
        "products_before": 4, "products_after": 4, "review_before": 1, "review_after": 0, "changed": 1, "changes": 3,
    }  # fmt: skip
    assert total.reasons == {"title": 1, "new": 1, "removed": 1}
    assert total.moves == {("toys", "books"): 1, ("toys", None): 1, (None, "toys"): 1}
    assert (total.before, total.after, total.left) == ({"toys": 4}, {"toys": 3, "books": 1}, {"toys": 1})


def test_what_a_rollback_took_back_is_found_when_it_comes_again() -> None:
    restored = rows({"product_id": "a"}, {"product_id": "b"}, {"product_id": "c"})
    taken_back = rows(
        {"product_id": "a", "category": "books"},
        {"product_id": "b", "category": "games"},
        {"product_id": "c"},
        {"product_id": "new since", "category": "books"},
    )
    tonight = rows({"product_id": "a", "category": "books"}, {"product_id": "b"}, {"product_id": "c"})
    assert returning(restored, tonight, taken_back) == {"taken_back": 2, "returning": 1}

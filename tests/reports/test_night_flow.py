from typing import Any

from mmbatch.reports.night_flow import Line, Part, flow


def steps(**changed: Any) -> dict[str, tuple[Line, ...]]:
    told: dict[str, Any] = {
        "rows": {"rows": 10, "new": 2, "unchanged": 7, "rejected": 1, "removed": 3},
        "edited": {},
        "products": {"products": 20, "unchanged": 17, "predicted": 3, "unpredictable": 0, "removed": 3},
        "encoded": {"a": {"products": 5, "unchanged": 1, "computed": 4}, "b": {"products": 1, "reused": 1}},
        "reasons": {"title": 1, "new": 2, "removed": 3},
        "published": 20,
        "committed": True,
    }
    return {step.title: step.lines for step in flow(**{**told, **changed})}


def test_every_line_adds_up() -> None:
    found = steps()
    assert list(found) == ["Source", "Catalog", "Encoded", "Predicted", "Published"]
    assert {line.missing for lines in found.values() for line in lines} == {0}
    assert [line.name for line in found["Encoded"]] == ["a", "b"]
    assert found["Catalog"][0].parts == (
        Part("there before", 21, "same"),
        Part("new", 2, "work"),
        Part("removed", 3, "lost", "−"),
    )


def test_removed_products_are_no_outcome_of_rows_and_no_share_of_a_bar() -> None:
    found = steps()
    assert "removed" not in {part.name for part in found["Source"][0].parts}
    assert [part.name for part, _ in found["Catalog"][0].shares] == ["there before", "new"]


def test_what_is_missing_or_too_much_is_counted() -> None:
    assert steps(rows={"rows": 10, "new": 2})["Source"][0].missing == 8
    assert steps(rows={"rows": 10, "new": 12})["Source"][0].missing == -2


def test_a_feed_with_superseded_and_deleted_rows_adds_up() -> None:
    rows = {"rows": 6, "new": 1, "edited": 1, "unchanged": 1, "rejected": 1, "superseded": 1, "deleted": 1}
    assert steps(rows=rows)["Source"][0].missing == 0


def test_more_new_products_than_there_are_do_not_tie_out() -> None:
    assert steps(rows={"rows": 30, "new": 30})["Catalog"][0].missing == -10


def test_nothing_known_is_not_shown_and_nothing_committed_changes_nothing() -> None:
    found = steps(rows={}, products={}, encoded={}, committed=False)
    assert list(found) == ["Published"]
    assert found["Published"] == (Line("predictions", 20, (Part("as before", 20, "same"),)),)


def test_no_products_at_all() -> None:
    [line] = steps(rows={}, products={}, encoded={}, reasons={}, published=0)["Published"]
    assert (line.parts, line.shares, line.missing) == ((), [], 0)

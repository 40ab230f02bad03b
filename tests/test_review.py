"""The review queue: which products are in it, why, in which order, and how many; without a workspace."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmbatch.pipelines.out_of_fold import SUSPECTS
from mmbatch.review import CONFIDENT, QUEUE, READ, REASONS, Tally, candidates, described, first, flagged, reasons_of
from mmbatch.schema import PREDICTIONS

BEST = {"image": "img", "text": "txt"}
READ_SCHEMA = pa.schema([PREDICTIONS.field(name) for name in READ])


def prediction(product: str, **changes: Any) -> dict[str, Any]:
    """A product on whose category all agree."""
    said = {"text": ("a", 0.95), "image": ("a", 0.9)} | changes.pop("said", {})
    models = {"txt": said["text"], "img": said["image"], "other": ("c", 1.0)}
    known = {name: pair for name, pair in models.items() if pair}
    row = {"product_id": product, "category": "a", "confidence": 0.7, "decision": "accepted", "bucket": 3}
    row["model_categories"] = [(name, pair[0]) for name, pair in known.items()]
    row["model_probabilities"] = [(name, pair[1]) for name, pair in known.items()]
    return row | changes


def predictions(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=READ_SCHEMA)


def suspects(**quality: float) -> pa.Table:
    rows = [
        {"product_id": product, "suggested_category": f"not {product}", "quality": value, "bucket": 3}
        for product, value in quality.items()
    ]
    return pa.Table.from_pylist(rows, schema=SUSPECTS)


def products(*ids: str) -> pa.Table:
    rows = [{"product_id": id, "title": f"title {id}", "label": f"label {id}", "source": f"{id[0]}.csv"} for id in ids]
    return pa.Table.from_pylist(rows)


def queue(*rows: dict[str, Any], **quality: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = flagged(predictions(*rows), suspects(**quality), best=BEST).to_pylist()
    return found


def queue_table(reasons: list[list[str]], *, category: str = "a") -> pa.Table:
    """Rows p0, p1, ... with these reasons, the first the most urgent."""
    rows = [
        {"product_id": f"p{n}", "reasons": of, "priority": 3 - n / 100, "category": category, "source": "s"}
        for n, of in enumerate(reasons)
    ]
    return pa.Table.from_pylist(rows, schema=QUEUE)


def test_a_product_on_which_all_agree_is_not_in_the_queue() -> None:
    assert queue(prediction("p")) == []
    assert flagged(predictions(), suspects(), best=BEST).num_rows == 0


def test_a_product_that_abstained_is_in_the_queue_and_one_that_backed_off_is_not() -> None:
    rows = [prediction(kind, decision=kind) for kind in ("accepted", "backed_off", "review")]
    [found] = queue(*rows, prediction("old", decision=None))
    assert (found["product_id"], found["reasons"], found["suggested_category"]) == ("review", ["abstained"], None)
    assert found["priority"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("text", "image", "conflict"),
    [
        (("a", 0.9), ("b", 0.85), True),
        (("a", CONFIDENT), ("b", CONFIDENT), True),
        (("a", 0.9), ("b", 0.79), False),
        (("a", 0.79), ("b", 0.9), False),
        (("a", 0.9), ("a", 0.85), False),
        (("a", 0.9), None, False),
        ((None, 0.9), ("b", 0.9), False),
    ],
)
def test_a_conflict_is_two_sure_models_of_different_categories(text: Any, image: Any, conflict: bool) -> None:
    found = queue(prediction("p", said={"text": text, "image": image}))
    assert [row["reasons"] for row in found] == ([["modality_conflict"]] if conflict else [])
    if conflict:
        assert found[0]["priority"] == pytest.approx(1 + min(text[1], image[1]))
        assert (found[0]["text_category"], found[0]["image_category"]) == ("a", "b")
        assert found[0]["image_probability"] == pytest.approx(image[1])


@pytest.mark.parametrize("missing", ["image", "text"])
def test_without_a_model_of_a_modality_there_are_no_conflicts(missing: str) -> None:
    rows = predictions(prediction("p", said={"image": ("b", 0.9)}), prediction("q", decision="review"))
    best = {modality: model for modality, model in BEST.items() if modality != missing}
    [found] = flagged(rows, suspects(), best=best).to_pylist()  # type: ignore[arg-type]
    assert found["product_id"] == "q"
    assert found[f"{missing}_category"] is None
    assert found[f"{missing}_probability"] is None


def test_a_suspected_label_comes_with_what_the_models_would_give() -> None:
    [found] = queue(prediction("p"), prediction("q"), q=0.2)
    assert (found["product_id"], found["reasons"], found["suggested_category"]) == ("q", ["suspected_label"], "not q")
    assert found["priority"] == pytest.approx(2.8)


def test_one_row_has_all_reasons_and_the_most_urgent_gives_the_priority() -> None:
    [found] = queue(prediction("p", decision="review", said={"image": ("b", 0.9)}), p=0.4)
    assert found["reasons"] == list(REASONS)
    assert found["priority"] == pytest.approx(2.6)


def test_suspected_labels_come_first_then_conflicts_then_the_nearly_sure() -> None:
    conflict = {"image": ("b", 0.81)}
    rows = [
        prediction("unsure", decision="review", confidence=0.1),
        prediction("nearly", decision="review", confidence=0.99),
        prediction("weak", said=conflict),
        prediction("strong", said={"image": ("b", 0.99), "text": ("a", 0.99)}),
        prediction("doubtful"),
        prediction("wrong"),
    ]
    found = queue(*rows, doubtful=0.49, wrong=0.01)
    assert [row["product_id"] for row in found] == ["wrong", "doubtful", "strong", "weak", "nearly", "unsure"]


def test_equal_priorities_are_in_the_order_of_the_ids() -> None:
    rows = [prediction(product, decision="review") for product in ("c", "a", "b")]
    assert [row["product_id"] for row in queue(*rows)] == ["a", "b", "c"]


def test_the_catalog_adds_title_label_and_source_and_lost_products_leave() -> None:
    rows = flagged(predictions(*(prediction(p, decision="review") for p in "xyz")), suspects(), best=BEST)
    found = described(rows, products("z", "x"))
    assert found.schema.equals(QUEUE)
    assert [(row["product_id"], row["title"], row["label"], row["source"]) for row in found.to_pylist()] == [
        ("x", "title x", "label x", "x.csv"),
        ("z", "title z", "label z", "z.csv"),
    ]
    assert described(rows, products("w")).num_rows == 0


def test_counts_are_by_reason_category_and_source_and_count_a_product_once_each() -> None:
    tally = Tally()
    tally.add(queue_table([["suspected_label", "abstained"], ["abstained"]]))
    tally.add(queue_table([["modality_conflict"]], category="b"))
    tally.add(QUEUE.empty_table())
    assert tally.rows == 3
    assert tally.reasons == {"suspected_label": 1, "modality_conflict": 1, "abstained": 2}
    assert {cell: count for cell, count in tally.cells.items() if count} == {
        ("a", "suspected_label"): 1,
        ("a", "abstained"): 2,
        ("b", "modality_conflict"): 1,
    }
    assert tally.categories == {"a": 2, "b": 1}
    assert tally.sources == {"s": 3}


def test_no_reason_hides_the_others() -> None:
    rows = queue_table([["suspected_label"]] * 10 + [["modality_conflict"]] * 2 + [["abstained"]] * 10)
    kinds = [row["reasons"][0] for row in first(rows, 9).to_pylist()]
    assert kinds == ["suspected_label"] * 4 + ["modality_conflict"] * 2 + ["abstained"] * 3
    assert first(rows, 9)["product_id"].to_pylist()[:4] == ["p0", "p1", "p2", "p3"]
    assert first(rows, 100).num_rows == 22
    assert first(rows, 1)["product_id"].to_pylist() == ["p0"]
    assert first(QUEUE.empty_table(), 5).num_rows == 0


def test_candidates_of_parts_choose_what_the_whole_would() -> None:
    rng = np.random.default_rng(0)
    kinds = [[reason for reason, on in zip(REASONS, rng.random(3) < 0.4, strict=True) if on] for _ in range(300)]
    rows = queue_table([kind or ["abstained"] for kind in kinds]).take(pa.array(rng.permutation(300)))
    kept = QUEUE.empty_table()
    for start in range(0, 300, 37):
        kept = candidates(pa.concat_tables([kept, rows.slice(start, 37)]), 20)
        assert kept.num_rows <= 60
    assert first(kept, 20).equals(first(rows, 20))


def test_reasons_are_read_back() -> None:
    rows = queue_table([["suspected_label", "abstained"], ["modality_conflict"]])
    assert reasons_of(rows).tolist() == [[True, False, True], [False, True, False]]

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from mmbatch.image_vectors import to_npy
from mmbatch.reports.figures import MOST
from mmbatch.reports.review import CSV, ReviewPage, csv_file, picture_of, write_page
from mmbatch.review import QUEUE, REASONS, Tally
from tests.reports.test_evaluation import HOSTILE, Page, picture

SUSPECTED, CONFLICT, ABSTAINED = REASONS


def queue(rows: list[dict[str, Any]]) -> pa.Table:
    plain = {"category": "Toys > Bricks", "confidence": 0.5, "decision": "review", "reasons": [ABSTAINED], "bucket": 0}
    told = [
        plain | {"product_id": f"p{n}", "priority": 3 - n / 1000, "source": "a.csv"} | row for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(told, schema=QUEUE)


def page_of(rows: pa.Table, *, shown: int | None = None, pictures: bool = True) -> ReviewPage:
    tally, rng = Tally(), np.random.default_rng(0)
    tally.add(rows)
    kept = rows.slice(0, shown)
    return ReviewPage(
        workspace="s3://lake/mmbatch",
        predictor="sample@0f3c9a",
        run_id="20250314T020000-review",
        products=12_345,
        tally=tally,
        rows=kept,
        pictures={id: picture_of(picture(rng) if pictures else None) for id in kept["product_id"].to_pylist()},
    )


def demo(products: int, *, shown: int | None = None, categories: int = 5) -> ReviewPage:
    """A queue of all reasons in several categories and sources."""
    rng = np.random.default_rng(1)
    rows = []
    for n in range(products):
        reasons = [reason for reason in REASONS if rng.random() < 0.4] or [ABSTAINED]
        conflict, suspected = CONFLICT in reasons, SUSPECTED in reasons
        rows.append(
            {
                "title": f"Product {n} in a fine box, with everything that belongs to it",
                "category": f"Home > Kitchen > Kind {rng.integers(categories)}",
                "confidence": rng.uniform(0.2, 0.99),
                "label": f"Garden > Kind {n % 7}" if suspected or n % 2 else None,
                "suggested_category": f"Home > Kitchen > Kind {n % 5}" if suspected else None,
                "reasons": reasons,
                "text_category": "Home > Kitchen > Kind 1" if conflict else None,
                "text_probability": 0.97 if conflict else None,
                "image_category": "Garden > Tools" if conflict else None,
                "image_probability": 0.88 if conflict else None,
                "source": f"s3://lake/shops/{'ab'[n % 2]}.parquet",
            }
        )
    return page_of(queue(rows), shown=shown)


def written(page: ReviewPage, folder: Path) -> str:
    uri = write_page(str(folder), page)
    assert uri == f"{folder}/review.html"
    return Path(uri).read_text()


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_page_shows_every_product_with_its_reasons_and_counts(tmp_path: Path) -> None:
    page = demo(40)
    html = written(page, tmp_path)
    text = Page(html).text
    for row in page.rows.to_pylist():
        assert row["product_id"] in text
    assert html.count("<article") == 40
    assert html.count("data:image/jpeg") == 40
    assert "40products to reviewof 12,345 published" in text
    for category, count in page.tally.categories.items():
        assert re.search(rf"{category}\s*{count} to review", text)
    for source in ("a", "b"):
        assert f"s3://lake/shops/{source}.parquet" in text


def test_a_conflict_says_both_sides_and_a_suspected_label_both_labels(tmp_path: Path) -> None:
    rows = [
        {"reasons": [SUSPECTED], "label": "given", "suggested_category": "rather this"},
        {
            "reasons": [CONFLICT],
            "text_category": "said by text",
            "text_probability": 0.91,
            "image_category": "said by image",
            "image_probability": 0.82,
        },
        {"reasons": [ABSTAINED], "category": None, "confidence": None, "title": None, "source": None},
    ]
    text = " ".join(Page(written(page_of(queue(rows)), tmp_path)).text.split())
    assert "labelledgiven ratherrather this predicted" in text
    assert "by textsaid by text, 91 % by imagesaid by image, 82 %" in text
    assert "no title p2 predictedno category, 0 %" in text
    assert "no source" in text


def test_the_category_of_the_most_urgent_product_comes_first(tmp_path: Path) -> None:
    rows = [{"category": name, "source": source} for name, source in (("b", "y"), ("a", "x"), ("b", "x"), ("b", "y"))]
    html = written(page_of(queue(rows)), tmp_path)
    assert re.findall(r"<code>(p\d)</code>", html) == ["p0", "p3", "p2", "p1"]


def test_each_reason_can_be_picked_without_any_script(tmp_path: Path) -> None:
    html = written(demo(40), tmp_path)
    found = Page(html)
    assert "script" not in found.tags
    for reason in REASONS:
        assert f'id="pick-{reason}"' in html
        assert f'<label for="pick-{reason}">' in html
        assert f"#pick-{reason}:checked ~ .groups .kind:not(.{reason}) {{ display: none; }}" in html
    [kept] = [row["reasons"] for row in demo(40).rows.to_pylist() if row["product_id"] == "p3"]
    article = html[: html.index("<code>p3</code>")].rpartition("<article")[2]
    assert f'class="card product kind {" ".join(kept)}"' in article


def test_a_reason_that_no_product_has_is_not_offered(tmp_path: Path) -> None:
    html = written(page_of(queue([{}, {}])), tmp_path)
    assert f'id="pick-{ABSTAINED}"' in html
    assert f'id="pick-{SUSPECTED}"' not in html


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    html = written(demo(6), tmp_path)
    assert all(address.startswith("data:") for address in Page(html).addresses)
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?:", html.replace("s3://", ""))


def test_everything_from_the_catalog_is_escaped(tmp_path: Path) -> None:
    hostile = dict.fromkeys(
        ("title", "category", "label", "suggested_category", "text_category", "image_category", "source"), HOSTILE
    )
    row = hostile | {"product_id": HOSTILE, "reasons": list(REASONS), "text_probability": 0.9, "image_probability": 0.9}
    html = written(page_of(queue([row])), tmp_path)
    assert "<script>" not in html
    assert "{{ 7 * 7 }}" in html, "and never rendered as a template"
    assert Page(html).text.count("<script>alert('x')</script>") >= 8


def test_what_has_no_thumbnail_says_why(tmp_path: Path) -> None:
    rows = queue([{}, {}, {}])
    page = page_of(rows, pictures=False)
    given = {"p1": picture_of(b"no image at all"), "p2": picture_of(to_npy(np.ones((1, 3), np.float32))[0].as_py())}
    html = written(ReviewPage(**{**vars(page), "pictures": {**page.pictures, **given}}), tmp_path)
    for words in ("no image", "image cannot be read", "image given as a vector"):
        assert f'<div class="picture none">{words}</div>' in html


def test_few_of_many_are_said_to_be_few_and_tables_are_bounded(tmp_path: Path) -> None:
    page = demo(600, shown=20, categories=70)
    html = written(page, tmp_path)
    text = " ".join(Page(html).text.split())
    assert "The most urgent 20, some of each reason, are shown below; all 600 stand in review.csv" in text
    assert html.count("<article") == 20
    assert html.count("<tr>") == 2 + MOST + 2
    assert f"The {MOST} of {len(page.tally.categories)} categories with the most products to review" in text


def test_an_empty_queue_says_so(tmp_path: Path) -> None:
    html = written(page_of(QUEUE.empty_table()), tmp_path)
    assert "Nothing to review" in html
    assert "<article" not in html


def test_the_page_goes_to_an_object_store() -> None:
    assert write_page("memory://bucket/reports/one", demo(2)) == "memory://bucket/reports/one/review.html"
    assert b"Products to review" in fsspec.filesystem("memory").cat_file("/bucket/reports/one/review.html")


@pytest.fixture
def csv_of(tmp_path: Path) -> Callable[..., list[dict[str, str]]]:
    """What a CSV file of some parts of a queue holds."""

    def write(*parts: pa.Table) -> list[dict[str, str]]:
        file = tmp_path / "new" / "review.csv"
        with csv_file(str(file)) as append:
            for part in parts:
                append(part)
        return read_csv(file)

    return write


def test_the_csv_has_a_row_for_each_product_and_all_columns(csv_of: Callable[..., list[dict[str, str]]]) -> None:
    title = 'Zwölf "Gläser", 초록\nund mehr'
    whole = queue([{"title": title, "reasons": list(REASONS), "text_probability": 0.25}, {}, {"category": None}])
    rows = csv_of(whole.slice(0, 2), QUEUE.empty_table(), whole.slice(2))
    assert [row["product_id"] for row in rows] == ["p0", "p1", "p2"]
    assert list(rows[0]) == CSV.names == QUEUE.names
    assert rows[0]["title"] == title
    assert rows[0]["reasons"] == "; ".join(REASONS)
    assert rows[0]["text_probability"] == "0.25"
    assert (rows[1]["title"], rows[2]["category"]) == ("", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_is_a_formula(start: str, csv_of: Callable[..., list[dict[str, str]]]) -> None:
    text = [field.name for field in QUEUE if pa.types.is_string(field.type)]
    evil = f"{start}cmd|' /C calc'!A0"
    [row] = csv_of(queue([dict.fromkeys(text, evil)]))
    assert {row[name] for name in text} == {f"'{evil}"}


@pytest.mark.parametrize("value", ["a=b", " =a", "'=a", "", "9-5", "a\n=b"])
def test_other_cells_stay_as_they_are(value: str, csv_of: Callable[..., list[dict[str, str]]]) -> None:
    [row] = csv_of(queue([{"title": value}]))
    assert row["title"] == value


def test_an_empty_queue_is_a_header(csv_of: Callable[..., list[dict[str, str]]], tmp_path: Path) -> None:
    assert csv_of() == []
    assert (tmp_path / "new" / "review.csv").read_text().splitlines() == [",".join(f'"{name}"' for name in QUEUE.names)]

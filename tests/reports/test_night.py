import io
import re
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from mmbatch.image_vectors import to_npy
from mmbatch.reports.night import GALLERY, LISTED, CategoryCount, Move, Night, write_index, write_night
from tests.reports.night_demo import example, first_night, night, points, refused, unchanged_night
from tests.reports.test_evaluation import HOSTILE, Page


def written(of: Night, folder: Path) -> str:
    uri = write_night(str(folder), of)
    assert uri == f"{folder}/night.html"
    return Path(uri).read_text()


def text_of(html: str) -> str:
    return " ".join(Page(html).text.split())


def test_a_published_night_says_so_with_its_numbers(tmp_path: Path) -> None:
    text = text_of(written(night(), tmp_path))
    assert (
        "✓ Published Published: 104 of 988 products got another category or decision 30 are new, 20 were removed."
        in text
    )
    assert "1,000 rows = 840 unchanged + 120 edited + 30 new + 10 rejected" in text
    assert "Edited, some in several fields: 90 title, 40 image, 1 label." in text
    assert "990 products = 980 there before + 30 new − 20 removed" in text
    assert "980 minilm@a1 = 860 unchanged + 100 computed + 19 reused + 1 quarantined" in text
    assert "988 predictions = 854 as before + 104 changed + 30 new" in text
    assert "Take it backpython -m jobs.rollback --workspace s3://lake/mmbatch" in text
    assert "Macro-F1 84.12 → 84.67 on 4,912 rows." in text
    assert "+0.55 points, 95 % interval −0.10 to +1.20: within noise" in text
    assert "image_missing812+4" in text
    assert "no_content–3" in text
    assert "encoding bound by decode, 413 contents per second" in text
    assert "도서 > 만화67 entered, 2 left100165+65" in text
    assert "not accounted for" not in text


def test_the_gate_shows_each_rule_the_breached_ones_first(tmp_path: Path) -> None:
    text = text_of(written(refused(), tmp_path))
    assert "✕ Refused Refused: changed 23.12 % > 10 %, and 1 more rule breached" in text
    assert "what is published stays as it was, 978 products" in text
    assert "changed 23.12 %10 % ✕ breached What changed says, at length." in text
    assert text.index("What drift says") < text.index("What golden says")
    assert "golden −0.55 pp1 pp ✓ passed" in text
    assert "--approve 20260131T020000-1a2b3c" in text
    assert "978 predictions = 978 as before Nothing was published." in text
    assert "jobs.rollback" not in text
    assert "returning –50 % not judged" in text_of(written(night(), tmp_path))


def test_a_drift_above_the_limit_stands_out(tmp_path: Path) -> None:
    html = written(refused(), tmp_path)
    assert '<dt>title length</dt><dd><b class="bad">✕ 0.410</b></dd>' in html
    assert "<dt>language</dt><dd>0.020</dd>" in html


def test_counts_that_do_not_tie_out_are_said(tmp_path: Path) -> None:
    wrong = night(rows={"rows": 1000, "new": 30, "edited": 120, "unchanged": 840})
    assert "✕ +10 not accounted for" in text_of(written(wrong, tmp_path))


def test_a_first_night(tmp_path: Path) -> None:
    text = text_of(written(first_night(), tmp_path))
    assert "Published: 988 products got their first category" in text
    assert "predictor fused@0f3c, the first one" in text
    assert "Not measured: no two predictors to compare" in text


def test_an_unchanged_night_has_nothing_to_show(tmp_path: Path) -> None:
    html = written(unchanged_night(), tmp_path)
    text = text_of(html)
    assert "Unchanged: nothing to publish, 988 products keep their category" in text
    assert "The gate was not asked" in text
    assert "Nothing is in quarantine." in text
    assert "<svg" not in html
    assert "jobs." not in text


def test_an_approved_and_a_rolled_back_night(tmp_path: Path) -> None:
    text = text_of(written(refused(state="approved"), tmp_path))
    assert "Approved: 104 of 978 products got another category or decision" in text
    assert "What was breached, a person has let through." in text
    assert "jobs.rollback" in text
    text = text_of(written(night(state="rolled back", reasons={"rollback": 7}), tmp_path))
    assert "Rolled back: 7 of 988 products have their earlier category again" in text


@pytest.mark.parametrize(("promoted", "words"), [(True, "The challenger was promoted"), (False, "The champion stays")])
def test_a_trial_is_told(promoted: bool, words: str, tmp_path: Path) -> None:
    trial = {"challenger": "fused@99ff", "champion": "fused@0f3c", "promoted": promoted, "why": "Because of <b>."}
    text = text_of(written(night(trial=trial), tmp_path))
    assert f"{words}: Because of <b>." in text
    assert "challenger fused@99ff" in text


def test_examples_show_before_after_confidence_and_reason(tmp_path: Path) -> None:
    unknown = example(3, title=None, image=to_npy_bytes(), before=None, confidence_before=None, after=None)
    shown = [*night().examples, replace(unknown, confidence_after=None, reason="new")]
    html = written(night(examples=shown), tmp_path)
    text = text_of(html)
    assert "Product 0 in a fine box SKU-0 Home > Pans, 62 % → 도서 > 만화, 97 % title edited" in text
    assert "image given as a vector no title SKU-3 no category → no category new product" in text
    for words in ("no image", "image cannot be read"):
        assert f'<div class="picture none">{words}</div>' in html
    assert html.count('alt="Image of Product 0 in a fine box"') == html.count("data:image/jpeg") == 1


def to_npy_bytes() -> bytes:
    import numpy as np

    vector: bytes = to_npy(np.ones((1, 3), np.float32))[0].as_py()
    return vector


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    hostile = night(
        workspace=HOSTILE,
        source=HOSTILE,
        predictor=HOSTILE,
        bound_by=HOSTILE,
        encoded={HOSTILE: {"products": 1, "unchanged": 1}},
        timings={HOSTILE: 1.0},
        reasons={HOSTILE: 3},
        drift={HOSTILE: 0.1},
        quarantined={HOSTILE: (1, 2)},
        moves=[Move(before=HOSTILE, after=HOSTILE + "2", products=3)],
        categories=[CategoryCount(category=HOSTILE, before=1, after=2, entered=1, left=0)],
        gate=[replace(night().gate[0], name=HOSTILE, sentence=HOSTILE, worst=HOSTILE, passed=False)],
        examples=[example(0, product_id=HOSTILE, title=HOSTILE, before=HOSTILE, after=HOSTILE, reason=HOSTILE)],
        trial={"challenger": HOSTILE, "champion": HOSTILE, "promoted": False, "why": HOSTILE},
        state="refused",
    )
    html = written(hostile, tmp_path)
    assert "<script>" not in html
    assert "{{ 7 * 7 }}" in html, "and never rendered as a template"
    assert Page(html).text.count("<script>alert('x')</script>") >= 16


def test_the_page_loads_nothing_and_links_to_nothing_outside(tmp_path: Path) -> None:
    html = written(night(review_page=f"{tmp_path}/../20260130-review/review.html"), tmp_path)
    addresses = [address for address in Page(html).addresses if not address.startswith(("data:", "#"))]
    assert addresses == ["../20260130-review/review.html"]
    assert "script" not in Page(html).tags
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?:", html)


def test_a_review_page_in_another_store_is_named_and_not_linked(tmp_path: Path) -> None:
    html = written(night(review_page="memory://elsewhere/review.html"), tmp_path)
    assert 'href="memory' not in html
    assert "45 products for review: memory://elsewhere/review.html" in text_of(html)


def test_four_thousand_categories_stay_readable(tmp_path: Path) -> None:
    names = [f"Top {place % 40} > Middle > Category {place}" for place in range(4000)]
    many = night(
        moves=[Move(before=names[n], after=names[-n - 1], products=4001 - n) for n in range(2000)],
        categories=[CategoryCount(category=name, before=10, after=12, entered=3, left=1) for name in names],
        drift=dict.fromkeys(names, 0.1),
        examples=[example(0)] * 100,
    )
    html = written(many, tmp_path)
    assert len(html) < 500_000
    assert html.count("<path") == 20
    assert html.count("entered, 1 left") == LISTED
    assert html.count("<article") == GALLERY


def test_the_picture_is_made_for_chats(tmp_path: Path) -> None:
    for of in (night(), refused(), first_night(), unchanged_night()):
        write_night(str(tmp_path), of)
        with Image.open(io.BytesIO((tmp_path / "night.png").read_bytes())) as image:
            assert image.size == (1200, 630)
            assert image.format == "PNG"


def test_the_page_and_the_index_go_to_an_object_store() -> None:
    assert write_night("memory://bucket/reports/one", night()) == "memory://bucket/reports/one/night.html"
    assert write_index("memory://bucket/reports", points(3)) == "memory://bucket/reports/index.html"
    files = fsspec.filesystem("memory")
    assert b"Published" in files.cat_file("/bucket/reports/one/night.html")
    assert b"3 nights" in files.cat_file("/bucket/reports/index.html")


def test_the_index_lists_nights_newest_first_with_links(tmp_path: Path) -> None:
    html = Path(write_index(str(tmp_path), points(30)[::-1])).read_text()
    page = Page(html)
    assert page.addresses == [f"run-{place}/night.html" for place in range(29, -1, -1)]
    assert "✕ Refusedchanged per category" in page.text
    assert html.count('class="mark bad"') == 6 + 1, "one refused night in each of six charts, and the key"
    assert html.count('class="mark warn"') == 6 + 1
    assert html.count("<polyline") == 6
    assert "script" not in page.tags
    assert "default-src 'none'" in html


def test_four_hundred_nights_stay_small(tmp_path: Path) -> None:
    assert len(Path(write_index(str(tmp_path), points(400))).read_bytes()) < 400_000


@pytest.mark.parametrize(("count", "words"), [(0, "There has been no night yet."), (1, "1 night, 2026-01-31")])
def test_an_index_of_hardly_a_night(count: int, words: str, tmp_path: Path) -> None:
    assert words in text_of(Path(write_index(str(tmp_path), points(count))).read_text())


def test_the_index_escapes_what_it_is_given_and_links_only_where_there_is_a_report(tmp_path: Path) -> None:
    point = replace(points(1)[0], state="refused", breached=[HOSTILE], report="")
    html = Path(write_index(str(tmp_path), [point])).read_text()
    assert "<script>" not in html
    assert Page(html).addresses == []

"""Pages of nights in a real browser: they fit a phone, load their pictures and complain about nothing."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from mmbatch.reports.night import CategoryCount, Move, write_index, write_night
from tests.reports.night_demo import example, first_night, night, points, refused, unchanged_night

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

LONG = "A department of many words > " + "Anunbreakablewordoffortyfourcharactersormore" * 3

LOOKS = [(width, scheme) for width in (1280, 390, 360) for scheme in ("light", "dark")]


def nights() -> dict[str, Any]:
    long = night(
        workspace="s3://" + "lake" * 60,
        moves=[Move(before=LONG, after=LONG + " > Inner", products=3)],
        categories=[CategoryCount(category=LONG, before=10_000_000, after=12_345_678, entered=2_345_678, left=0)],
        examples=[example(0, title="x" * 300, before=LONG)],
        gate=[replace(rule, name="changed_per_category", worst=LONG, sentence=LONG) for rule in night().gate],
        quarantined={"image_unknown_format": (10_000_000, 12_345_678)},
        reasons={"title": 2_345_678},
    )
    return {"published": night(), "refused": refused(), "first": first_night(), "unchanged": unchanged_night()} | {
        "long": long
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> page."""
    folder = tmp_path_factory.mktemp("reports")
    pages = {name: Path(write_night(str(folder / name), of)) for name, of in nights().items()}
    return pages | {"index": Path(write_index(str(folder), points(400)))}


def opened(browser: Browser, file: Path, width: int, scheme: Any) -> tuple[Page, list[str]]:
    """The page with all of its parts unfolded, and what the browser complains of."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
    page.goto(file.as_uri())
    for summary in page.locator("summary").all():
        summary.click()
    return page, complaints


@pytest.mark.parametrize("name", [*nights(), "index"])
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_a_page_fits_its_screen(name: str, width: int, scheme: str, browser: Browser, files: dict[str, Path]) -> None:
    page, complaints = opened(browser, files[name], width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("h1").count() == 1
    assert page.locator("h2").count() >= 2
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert complaints == []
    page.close()


def test_dark_is_dark_and_light_is_light(browser: Browser, files: dict[str, Path]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page, _ = opened(browser, files["published"], 1280, scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert colours == ["rgb(246, 247, 249)", "rgb(16, 18, 22)"]


def test_no_text_of_a_table_runs_out_of_its_card(browser: Browser, files: dict[str, Path]) -> None:
    check = """[...document.querySelectorAll('.card table')].filter(table =>
        table.getBoundingClientRect().right > table.closest('.card').getBoundingClientRect().right).length"""
    for name in ("refused", "index", "long"):
        page, _ = opened(browser, files[name], 360, "light")
        assert page.evaluate(check) == 0, name
        page.close()


def test_keys_reach_the_chart_that_scrolls(browser: Browser, files: dict[str, Path]) -> None:
    page, _ = opened(browser, files["published"], 390, "light")
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName")
        )
    assert {"A", "SUMMARY", "Chart of moves, scrolls sideways"} <= reached
    page.close()


def test_a_link_of_the_index_opens_the_night(browser: Browser, tmp_path: Path) -> None:
    write_night(str(tmp_path / "run-0"), night())
    page, _ = opened(browser, Path(write_index(str(tmp_path), points(1))), 1280, "light")
    page.get_by_role("link").click()
    assert page.locator("h1").inner_text() == "Published: 104 of 988 products got another category or decision"
    page.close()

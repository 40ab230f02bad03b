"""Every page in a real browser, over a shop that is published."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser

from mmbatch.browse import Browser as Products
from mmbatch.browse import Wanted
from mmbatch.catalog import Catalog
from mmbatch.corrections import Correction, Corrections
from mmbatch.models import open_model, published_predictor
from mmbatch.pipelines.ingest import assign_splits
from mmbatch.predictions import Predictions
from mmbatch.review import QUEUE
from mmbatch.review_desk import Queue
from mmbatch.runs import Run
from mmbatch.schema import PREDICTIONS
from mmbatch.workspace import Workspace
from tests.app.driving import Visit, served
from tests.conftest import do_in_process
from tests.published_shop import PRODUCTS, photo, publish_shop

pytestmark = pytest.mark.slow

HOSTILE = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'> **bold** $x$ lamp"

LOOKS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def products() -> dict[str, dict[str, Any]]:
    """More than a screenful, one of them with a hostile title."""
    more = {f"p{number:02d}": {"title": f"Lamp number {number}", "image": photo(number)} for number in range(40)}
    return PRODUCTS | more | {"hostile": {"title": HOSTILE}}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A shop that is published, most of its products labelled, and a review queue of all."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        do_in_process(monkeypatch)
        made = publish_shop(tmp_path_factory.mktemp("app"), products())
    for number in range(36):
        label = "even" if number % 3 else "odd"
        said = Correction(product_id=f"p{number:02d}", label=[label], label_before=None, author="ada", run_id=None)
        Corrections(workspace=made).add(said)
    assign_splits(Catalog(workspace=made))
    write_queue(made)
    return made


def write_queue(workspace: Workspace) -> None:
    """A review of all products, the first page of which is hostile."""
    run = Run(workspace=workspace, job="review")
    folder = Path(workspace.path("reports", run.run_id))
    folder.mkdir(parents=True)
    found = Predictions(workspace=workspace).table.read(["product_id", "confidence", "bucket"]).to_pylist()
    rows = [
        dict.fromkeys(QUEUE.names) | row | {"priority": row["confidence"], "reasons": ["abstained"]} for row in found
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=QUEUE), folder / "queue.parquet")
    (folder / "review.html").write_text(f"<!doctype html><h1>Queue</h1>{HOSTILE}")
    run.finish({"queue": str(folder / "queue.parquet"), "products": len(rows)})


@pytest.fixture(scope="module")
def address(workspace: Workspace) -> Iterator[str]:
    with served(workspace.uri) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    opened = Visit(browser, address)
    yield opened
    assert opened.complaints == []
    opened.page.close()


def a_product(workspace: Workspace) -> dict[str, Any]:
    """One with a title and an image."""
    rows = Products.open(workspace).find(Wanted(), limit=50).rows.to_pylist()
    found: dict[str, Any] = next(row for row in rows if row["title"] and row["modality_image"])
    return found


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_page_fits_its_screen_and_names_its_controls(
    width: int, scheme: str, browser: Browser, address: str, workspace: Workspace
) -> None:
    visit = Visit(browser, address, width=width, scheme=scheme)
    for view in ("Products", "Categories", "Confusion", "Changes"):
        visit.page.get_by_role("radio", name=view).click()
        visit.settled()
        visit.keep(f"{view}-{width}-{scheme}")
        assert (visit.fits(), visit.unlabelled()) == (True, []), view
    visit.go("Try")
    visit.fill("Or a product of the catalog, by its id", a_product(workspace)["product_id"])
    visit.click("Predict")
    visit.sees("Nearest products of the catalog")
    visit.keep(f"Try-{width}-{scheme}")
    for page in ("Review", "Runs"):
        visit.go(page)
        visit.keep(f"{page}-{width}-{scheme}")
        assert (visit.fits(), visit.unlabelled()) == (True, []), page
    background = visit.page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert visit.complaints == []
    visit.page.close()


def test_products_are_found_by_words_and_by_id(visit: Visit, workspace: Workspace) -> None:
    product = a_product(workspace)
    visit.fill("Search", product["product_id"])
    visit.settled()
    visit.shows("% sure", 1)
    visit.sees(product["title"])
    visit.fill("Search", "no such words")
    visit.sees("No product matches.")


def test_filters_choose_products(visit: Visit) -> None:
    visit.page.get_by_text("Filters", exact=True).click()
    visit.choose("Label", "Without a label")
    visit.shows("% sure", len(products()) - 36)
    visit.choose("Decision", "Accepted")
    visit.sees("No product matches.")


def test_more_shows_other_products_and_back_the_first_ones(visit: Visit, workspace: Workspace) -> None:
    found = Products.open(workspace).find(Wanted())
    shown = found.rows["product_id"].to_pylist()
    visit.shows("% sure", len(shown))
    visit.click("More")
    visit.shows("% sure", len(products()) - len(shown))
    visit.click("Back")
    visit.shows("% sure", len(shown))
    assert all(product in visit.text() for product in shown)


def confusions(visit: Visit) -> None:
    """The matrix of all labelled products."""
    visit.page.get_by_role("radio", name="Confusion").click()
    visit.settled()
    visit.choose("Labelled products", "all splits")


def test_a_row_of_the_confusions_shows_its_products(visit: Visit) -> None:
    confusions(visit)
    table = visit.page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    table.click(position={"x": 16, "y": 52})
    visit.sees("Products of the cell")


def test_a_cell_of_the_matrix_shows_its_products(visit: Visit) -> None:
    confusions(visit)
    cell = visit.page.locator("[data-testid=stVegaLiteChart] path[aria-roledescription=rect], .mark-rect path").first
    if cell.count():
        cell.click()
    else:  # drawn on a canvas
        _click_the_first_colour(visit)
    visit.sees("Products of the cell")


def _click_the_first_colour(visit: Visit) -> None:
    place = visit.page.evaluate("""() => {
        const canvas = document.querySelector('[data-testid=stVegaLiteChart] canvas')
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
        const scale = canvas.width / canvas.getBoundingClientRect().width
        for (let at = 0; at < data.data.length; at += 4) {
            const [r, g, b] = data.data.slice(at, at + 3)
            if (r === 47 && g === 111 && b === 208 && data.data[at + 3] === 255)
                return [(at / 4) % data.width / scale + 6, Math.floor(at / 4 / data.width) / scale + 6]
        }
    }""")
    visit.page.locator("[data-testid=stVegaLiteChart] canvas").first.click(position={"x": place[0], "y": place[1]})


def test_a_text_is_predicted_by_every_model_that_reads_it(visit: Visit, workspace: Workspace) -> None:
    product = a_product(workspace)
    visit.go("Try")
    visit.fill("Title", product["title"])
    visit.click("Predict")
    visit.sees("The models, side by side")
    assert "has nothing to look at" in visit.text(), "no image, so the image model says nothing"
    visit.click("Find the words")
    visit.sees("How far the log-odds")


def test_an_image_is_predicted(visit: Visit, tmp_path: Path) -> None:
    Image.new("RGB", (200, 150), "purple").save(tmp_path / "photo.jpg")
    visit.go("Try")
    visit.page.locator("input[type=file]").set_input_files(tmp_path / "photo.jpg")
    visit.page.get_by_text("photo.jpg").wait_for()
    visit.click("Predict")
    visit.sees("The models, side by side")
    visit.click("Find the words")
    visit.sees("Orange regions speak for the category")


def test_a_catalog_product_is_predicted_as_it_was_published(visit: Visit, workspace: Workspace) -> None:
    product = a_product(workspace)
    visit.go("Try")
    visit.fill("Or a product of the catalog, by its id", product["product_id"])
    visit.click("Predict")
    visit.sees(f"{100 * product['confidence']:.1f} % sure")
    visit.page.get_by_role("heading", name=product["category"], level=3).wait_for()


def pdf(folder: Path) -> Path:
    (folder / "paper.jpg").write_bytes(b"%PDF-1.7\n" + b"0" * 1000)
    return folder / "paper.jpg"


def huge(folder: Path) -> Path:
    """A hundred megapixels of nothing: a small file."""
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    return folder / "huge.png"


@pytest.mark.parametrize(("made", "reason"), [(pdf, "image_unknown_format"), (huge, "image_too_large")])
def test_a_file_that_is_no_usable_image_is_told(visit: Visit, tmp_path: Path, made: Any, reason: str) -> None:
    file = made(tmp_path)
    visit.go("Try")
    visit.page.locator("input[type=file]").set_input_files(file)
    visit.page.get_by_text(file.name).wait_for()
    visit.click("Predict")
    visit.sees(reason)
    visit.sees("Nothing of this product can be used")


def test_a_form_that_says_nothing_too_much_or_what_is_forbidden_is_told(visit: Visit) -> None:
    visit.go("Try")
    visit.click("Predict")
    visit.sees("There is nothing to predict from")
    visit.fill("Image address", "http://169.254.169.254/latest/meta-data")
    visit.click("Predict")
    visit.sees("image_forbidden")
    visit.fill("Image address", "")
    visit.fill("Or a product of the catalog, by its id", "no such product")
    visit.click("Predict")
    visit.sees("The catalog has no product no such product.")
    visit.fill("Or a product of the catalog, by its id", "")
    visit.page.get_by_label("Description").evaluate(_PASTE)
    visit.click("Predict")
    visit.sees("The description has 10,000,000 characters; at most 100,000 are taken.")


_PASTE = """field => {
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(field, 'x'.repeat(10_000_000))
    field.dispatchEvent(new Event('input', {bubbles: true}))
    field.blur()
}"""
"""Ten megabytes at once, as from a clipboard."""


def test_one_key_puts_a_label_into_the_table_and_the_next_training_reads_it(visit: Visit, workspace: Workspace) -> None:
    queue = Queue.read(workspace)
    left = queue.left(Products.open(workspace))
    first, before = left.to_pylist()[0], Corrections(workspace=workspace).table.rows()
    visit.go("Review")
    visit.fill("Your name", "grace")
    visit.settled()
    visit.key("y")
    visit.sees("Saved:")
    [row] = [row for row in Corrections(workspace=workspace).newest().to_pylist() if row["author"] == "grace"]
    assert row["product_id"] == first["product_id"]
    labels = Catalog(workspace=workspace).labels().to_pandas().set_index("product_id")
    assert labels.loc[first["product_id"], "category"] == row["label"][0]
    visit.sees(f"{left.num_rows - 1:,} products left of {queue.rows.num_rows:,}")
    visit.key("n")
    visit.sees("Another category")
    visit.key("1")
    visit.sees(f"{left.num_rows - 2:,} products left")
    assert Corrections(workspace=workspace).table.rows() == before + 2
    visit.key("u")
    visit.sees(f"{left.num_rows - 1:,} products left")
    assert Corrections(workspace=workspace).table.rows() == before + 3


def test_two_tabs_have_their_own_product_and_share_what_is_corrected(
    visit: Visit, browser: Browser, address: str, workspace: Workspace
) -> None:
    other = Visit(browser, address)
    for tab in (visit, other):
        tab.go("Review")
    before = Queue.read(workspace).left(Products.open(workspace)).num_rows
    first, second = Queue.read(workspace).left(Products.open(workspace))["product_id"].to_pylist()[:2]
    visit.key("s")
    visit.sees(f"Product {second}")
    other.sees(f"Product {first}")
    other.key("y")
    other.sees(f"{before - 1:,} products left")
    visit.go("Runs")
    visit.go("Review")
    visit.sees(f"{before - 1:,} products left")
    assert other.complaints == []


def test_a_report_is_shown_in_a_frame_that_may_do_nothing(visit: Visit, workspace: Workspace) -> None:
    run_id = Queue.read(workspace).run_id
    visit.go("Runs")
    visit.sees(f"review {run_id}")
    visit.choose("Report", "review.html")
    frame = visit.page.frame_locator("iframe").frame_locator("iframe[title='review.html']")
    frame.locator("h1").wait_for()
    inner = next(one for one in visit.page.frames if one.url == "about:srcdoc" and one.parent_frame.parent_frame)
    assert inner.evaluate("window.hit") is None
    visit.complaints.clear()  # the browser says that it blocked the script


def test_a_predictor_that_is_replaced_is_noticed(visit: Visit, workspace: Workspace) -> None:
    visit.go("Try")
    visit.fill("Title", "a novel")
    visit.click("Predict")
    visit.sees("The models, side by side")
    old = published_predictor(workspace)
    assert old is not None
    copy = f"predictor@{'0' * 12}"
    shutil.copytree(old.uri, workspace.path("models", "predictor", copy))
    card = Path(workspace.path("models", "predictor", copy, "model.json"))
    card.write_text(card.read_text().replace(old.id, copy))
    assert open_model(workspace, kind="predictor", model_id=copy).id == copy
    table = workspace.table("predictions", schema=PREDICTIONS)
    rows = table.read()
    place = rows.schema.get_field_index("predictor")
    rows = rows.set_column(place, "predictor", pa.repeat(copy, rows.num_rows))
    table.replace(table.write_buckets(rows), table.files(), app_id="replaced", read_version=table.version())
    visit.click("Find the words")
    visit.sees("The predictor was replaced")
    assert copy in visit.text()

"""Pictures for the documentation, of a workspace with a review queue: the app, `docs/app-*.png`, and `docs/report.png`.

    python -m benchmarks.screenshots --workspace demo --product P000000009

It needs the developers' requirements and a Chromium on the PATH, and leaves the workspace as it is.
"""

import argparse
import io
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PORT = 8598
SIZE = (1280, 900)
WIDTH = 1000
"""Of the pictures, in pixels."""

REPORT_HEIGHT = 2_080
"""Of the page of a report, from its top: what does not fit is left out."""


def main() -> None:
    """Serve the workspace, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--product", required=True, help="the one to be tried, by its id")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    command = [sys.executable, "-m", "jobs.app", "--workspace", given.workspace, "--port", str(PORT)]
    with subprocess.Popen(command) as process:
        try:
            _await()
            _take(given.product, max(Path(given.workspace).resolve().glob("reports/*/report.html")), given.out)
        finally:
            process.terminate()


def _await() -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the app does not answer")


def _take(product: str, report: Path, out: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{PORT}")
        page.get_by_text("% sure").first.wait_for()
        _keep(page, out / "app-catalog.png")
        page.get_by_role("link", name="Try").click()
        page.get_by_label("Or a product of the catalog, by its id").fill(product)
        page.get_by_role("button", name="Predict").click()
        page.get_by_role("button", name="Find the words").click()
        page.get_by_text("Orange regions").wait_for()
        page.get_by_role("heading", name="The models, side by side").evaluate("one => one.scrollIntoView()")
        page.mouse.wheel(0, -80)
        page.set_viewport_size({"width": SIZE[0], "height": 3 * SIZE[1] // 2})  # down to the words
        _keep(page, out / "app-try.png")
        page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
        page.get_by_role("link", name="Review").click()
        page.get_by_role("button", name="Wrong").click()
        page.get_by_text("Another category").wait_for()
        _keep(page, out / "app-review.png")
        page.goto(report.as_uri())
        page.set_viewport_size({"width": SIZE[0], "height": REPORT_HEIGHT})
        workspace = report.parents[2]  # whose folder is nobody's business
        page.get_by_text(str(workspace), exact=True).evaluate("(one, name) => one.textContent = name", workspace.name)
        _keep(page, out / "report.png")
        browser.close()


def _keep(page: Page, file: Path) -> None:
    """What the page shows when it is drawn, in few colours: a small file."""
    page.wait_for_timeout(1500)  # charts grow into place
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture = picture.resize((WIDTH, WIDTH * picture.height // picture.width), Image.Resampling.LANCZOS)
    picture.quantize(192).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

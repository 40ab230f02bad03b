"""The app as a process of its own, and a browser that drives it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

LIMIT_MS = 120_000
"""For anything that a page waits for: a busy machine loads a predictor in half a minute."""


@contextmanager
def served(workspace: Path | str, *flags: str) -> Iterator[str]:
    """The address of the app of a workspace, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jobs.app", "--workspace", str(workspace), "--port", str(port), *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        ended = process.wait(30)
    assert ended == 0, "it ends well when it is told to end"


def _await(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the app does not answer: exit code {process.poll()}")


class Visit:
    """A tab with the app, and what its browser complains of."""

    def __init__(self, browser: Browser, address: str, *, width: int = 1280, scheme: Any = "light") -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        self.page.set_default_timeout(LIMIT_MS)
        self.narrow, self.complaints = width < 700, list[str]()
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self._check(asked.url, address))
        self.page.goto(address)
        self.settled()

    def _check(self, url: str, address: str) -> None:
        if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:", "about:")):
            self.complaints.append(f"asked of elsewhere: {url[:120]}")

    def settled(self) -> None:
        """Wait until the page has run to its end."""
        self.page.wait_for_selector("h1")
        self.page.wait_for_function(_SETTLED, polling=100)

    def go(self, name: str) -> None:
        """To another page of the app."""
        if self.narrow:
            self.page.get_by_test_id("stExpandSidebarButton").click()
        self.page.get_by_role("link", name=name).first.click()
        self.page.get_by_role("heading", name=name, level=1).wait_for()
        if self.narrow:
            self.page.get_by_test_id("stSidebarContent").hover()
            self.page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
        self.settled()

    def fill(self, label: str, text: str) -> None:
        """A field by its label, and leave it."""
        field = self.page.get_by_label(label, exact=True)
        field.fill(text)
        field.blur()

    def choose(self, label: str, option: str) -> None:
        """An option of a list, when nothing moves any more: a list that is moved closes."""
        self.page.evaluate(_STILL)
        field = self.page.get_by_role("combobox", name=label, exact=True)
        field.fill(option)
        self.page.get_by_role("option", name=option, exact=True).wait_for()
        field.press("Enter")
        self.settled()

    def click(self, name: str) -> None:
        """A button by its name; wait for what it does."""
        self.page.get_by_role("button", name=name).first.click()
        self.settled()

    def key(self, name: str) -> None:
        """Press a key, when the page listens."""
        self.settled()
        self.page.locator("body").press(name)

    def shows(self, text: str, times: int) -> None:
        """Wait until this is to be read so often."""
        expect(self.page.get_by_test_id("stMain").get_by_text(text)).to_have_count(times, timeout=LIMIT_MS)

    def text(self) -> str:
        """All that is to be read."""
        return self.page.get_by_test_id("stMain").inner_text()

    def sees(self, text: str) -> None:
        """Wait until this is to be read."""
        self.page.get_by_test_id("stMain").get_by_text(text).first.wait_for()

    def unlabelled(self) -> list[str]:
        """Controls that a screen reader has no name for."""
        found: list[str] = self.page.evaluate(_NAMELESS)
        return found

    def fits(self) -> bool:
        """Whether the page is no wider than its screen."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))

    def keep(self, name: str) -> None:
        """A picture of the screen, for a person: where `MMBATCH_SCREENSHOTS` says."""
        folder = os.environ.get("MMBATCH_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=f"{folder}/{name}.png")


_SETTLED = """() => {
    const app = document.querySelector('[data-testid=stApp]')
    const quiet = app?.getAttribute('data-test-script-state') === 'notRunning'
    const drawing = '[data-testid=stSpinner], [data-testid=stSkeleton], [data-stale=true]'
    const done = quiet && !document.querySelector(drawing)
    window.quietSince = done ? (window.quietSince ?? performance.now()) : undefined
    return done && performance.now() - window.quietSince > 400
}"""
"""The script has ended and nothing of it is still to be drawn, for longer than a click takes to arrive."""

_STILL = """Promise.all(document.getAnimations()
    .filter(one => one.effect.getComputedTiming().endTime !== Infinity)
    .map(one => one.finished.catch(() => null))).then(() => null)"""

_NAMELESS = """() => [...document.querySelectorAll('[data-testid=stMain] :is(input, textarea, button, select)')]
    .filter(one => one.offsetParent !== null && one.type !== 'hidden')
    .filter(one => !(one.labels?.length || one.getAttribute('aria-label') || one.getAttribute('aria-labelledby')
        || one.innerText?.trim() || one.title))
    .map(one => one.outerHTML.slice(0, 160))"""

"""Debian's Chromium for tests of the pages, and the pictures that it leaves."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PASSWORD = "correct horse battery"
_SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
"""Where THINWIRE_SCREENSHOTS names no other folder."""

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed: apt-get install chromium")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own, without a screen."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        try:
            yield browser
        finally:
            browser.close()


def complaints(page: Any) -> list[str]:
    """The errors on the page's console."""
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda words: said.append(words.text) if words.type == "error" else None)
    return said


def serious(page: Any) -> list[str]:
    """axe-core's findings of barriers to using the page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in ("serious", "critical")]


def pictures() -> Path:
    """The folder for what tests leave to be looked at."""
    folder = Path(os.environ.get("THINWIRE_SCREENSHOTS") or _SCREENSHOTS)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep(page: Any, name: str, whole: bool = False) -> None:
    page.screenshot(path=pictures() / f"{name}.png", full_page=whole)


def enter(page: Any, url: str, **named: str) -> None:
    """Use a one-time link of the reading room; it ends at the worklist."""
    page.goto(url)
    for field, value in {"password": PASSWORD, "again": PASSWORD, **named}.items():
        page.fill(f"input[name={field}]", value)
    page.click("button.main")
    page.wait_for_selector("#worklist-rows")
    page.wait_for_load_state("load")  # its scripts listen now


def enter_as_reader(page: Any, url: str, secret: str) -> None:
    """secret: what `account add` printed. url: of the reading room."""
    enter(page, f"{url}/welcome/{secret.strip().rsplit('/', 1)[-1]}")

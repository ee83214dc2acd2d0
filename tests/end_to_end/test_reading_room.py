"""The reading room in a real browser: a clinic and a hub as real processes, a reader from the list to the signature.

Screenshots go to the folder THINWIRE_SCREENSHOTS, where it is set.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.end_to_end.test_two_processes import SEED, call, command
from thinwire.sender.intake.phantom import describe, render, to_dicom
from thinwire.shared.bundle import default_bundle_folder

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PASSWORD = "correct horse battery"

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]


@dataclass(frozen=True)
class Served:
    data: Path
    target: str
    url: str
    link: str


@contextmanager
def serving(data: Path) -> Iterator[Served]:
    words = ("serve", "--data", str(data), "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0")
    process = subprocess.Popen(command("thinwire-receiver", *words), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert "first administrator" in lines[2], lines
        yield Served(data, lines[0].split()[-1], lines[1].split()[-1], lines[2].split()[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@contextmanager
def sending(clinic: Path) -> Iterator[None]:
    process = subprocess.Popen(command("thinwire-sender", "run", "--data", clinic), stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def study(folder: Path) -> Path:
    phantom = describe(SEED)
    scale = 900 / max(phantom.height, phantom.width)
    path = folder / "study.dcm"
    path.write_bytes(to_dicom(phantom, render(phantom, round(phantom.height * scale), round(phantom.width * scale))))
    return path


def stands_in(part: NDArray[np.uint8], image: NDArray[np.uint8]) -> bool:
    """Is `part` in `image`, pixel for pixel?"""
    height, width = part.shape
    first = np.lib.stride_tricks.sliding_window_view(image, (1, width))[: len(image) - height + 1, :, 0]
    places = np.argwhere((first == part[0]).all(axis=-1))
    return any(np.array_equal(image[y : y + height, x : x + width], part) for y, x in places)


def serious(page: Any) -> list[str]:
    """What axe-core finds that keeps somebody from using the page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in ("serious", "critical")]


def keep(page: Any, name: str, whole: bool = False) -> None:
    folder = os.environ.get("THINWIRE_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=whole)


def enter(page: Any, url: str, **named: str) -> None:
    page.goto(url)
    for field, value in {"password": PASSWORD, "again": PASSWORD, **named}.items():
        page.fill(f"input[name={field}]", value)
    page.click("button.main")
    page.wait_for_selector("#live")
    page.wait_for_load_state("load")  # its scripts listen now


def test_from_the_list_to_the_signature(tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
    data, clinic, note = tmp_path / "hub", tmp_path / "clinic", tmp_path / "note.txt"
    call("thinwire-receiver", "init", "--data", data)
    note.write_text(describe(SEED).report, encoding="utf-8")
    with serving(data) as hub, sync_playwright() as playwright:
        token = call("thinwire-receiver", "enrol", "valley", "--data", data).strip()
        call("thinwire-sender", "join", "-", "--data", clinic, "--hub", hub.target, stdin=token)
        tiers = ("--tiers", "preview=always,evidence=always,pixels=on-request")
        text = ("--text", note, "--text-source", "report")
        call("thinwire-sender", "send", study(tmp_path), "--data", clinic, *text, *tiers, "--wait")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        errors: list[str] = []

        first = browser.new_page()
        enter(first, hub.link, name="root", shown="Ada Root")
        secret = call("thinwire-receiver", "account", "add", "anna", "--shown", "Dr. Anna Lund", "--data", data).strip()
        own = browser.new_context(viewport={"width": 1280, "height": 800})
        page = own.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        enter(page, f"{hub.url}/welcome/{secret.rsplit('/', 1)[-1]}")

        page.keyboard.press("j")
        expect(page.locator("#live tr.selected")).to_have_count(1)
        page.keyboard.press("Enter")
        source = page.locator(".source").first
        expect(source).to_contain_text("Approximate: the preview")
        expect(source).to_contain_text("exact, in frames")
        address = page.url

        # Evidence is on the screen as it is in the file, pixel for pixel.
        page.keyboard.press("a")
        page.keyboard.press("x")
        view = json.loads(page.request.get(f"{address}/view").text())
        facts, body = view["evidence"], page.request.get(f"{address}/samples/evidence").body()
        _, _, w, h = facts["rectangles"][0]
        kind = np.uint8 if facts["bits"] == 8 else np.dtype("<u2")
        samples = np.frombuffer(body[facts["levels"] :], kind)[: w * h].reshape(h, w)
        exact = np.frombuffer(body[: facts["levels"]], np.uint8)[samples]
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it is drawn
        shot = np.asarray(Image.open(BytesIO(page.locator("canvas").first.screenshot())).convert("L"))
        assert stands_in(exact[h // 2 - 10 : h // 2 + 10, w // 2 - 10 : w // 2 + 10], shot)

        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("Escape")
        for scheme in ("light", "dark"):
            for width, height in ((1280, 800), (390, 844)):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": height})
                for name, where in (("list", f"{hub.url}/"), ("study", address)):
                    page.goto(where)
                    # Colours follow the scheme and the layout the width: two of the four hold all.
                    if (scheme == "light") == (width == 1280):
                        assert serious(page) == []
                    assert page.evaluate("document.documentElement.scrollWidth") <= width
                    keep(page, f"{name}-{width}-{scheme}", whole=name == "study")
        page.set_viewport_size({"width": 1280, "height": 800})

        with sending(clinic):
            page.goto(address)
            page.keyboard.press("g")
            expect(page.locator(".panel.missing")).to_contain_text("asked for")
            expect(page.locator(".source").first).to_contain_text("Exact: the pixels", timeout=60_000)
            expect(page.locator(".panel.missing")).to_have_count(0)
            page.keyboard.press("e")
            page.keyboard.type("No pneumothorax. <script>alert(1)</script>")
            page.keyboard.press("Control+s")
            expect(page.locator(".report .state")).to_have_text("draft")
            page.click("[data-sign]")
            keep(page, "sign")
            page.click("#sign button.main")
            expect(page.locator(".report .state")).to_have_text("final")
            expect(page.locator(".report .kept")).to_contain_text("<script>alert(1)</script>")
            keep(page, "signed", whole=True)
            for _ in range(30):  # each look takes as long as a process needs to start
                (entry,) = json.loads(call("thinwire-sender", "status", "--data", clinic, "--json"))["studies"]
                if entry["hub"] == "read":
                    break
        assert entry["hub"] == "read"
        first.goto(f"{hub.url}/audit")
        keep(first, "audit")
        assert "Report signed" in first.content()
        assert serious(first) == []
        assert errors == []
        browser.close()
        head = call("thinwire-receiver", "audit", "verify", "--data", data).strip()
        assert re.fullmatch(r"\d+:[0-9a-f]{64}", head)

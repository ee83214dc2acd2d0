"""The reading room in a real browser: a reader before a study of which the originals are not here yet."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.browser import chromium, complaints, enter, enter_as_reader, keep, needs_chromium, serious
from tests.support.programs import SEED, call, enrol, reading_room, study_file
from thinwire.receiver.training.phantoms.phantom import describe
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
    needs_chromium,
]


def stands_in(part: NDArray[np.uint8], image: NDArray[np.uint8]) -> bool:
    """Is `part` in `image`, pixel for pixel?"""
    height, width = part.shape
    first = np.lib.stride_tricks.sliding_window_view(image, (1, width))[: len(image) - height + 1, :, 0]
    places = np.argwhere((first == part[0]).all(axis=-1))
    return any(np.array_equal(image[y : y + height, x : x + width], part) for y, x in places)


def test_what_is_here_is_shown_and_everybody_can_use_it(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    data, clinic, note = tmp_path / "hub", tmp_path / "clinic", tmp_path / "note.txt"
    call("thinwire-receiver", "init", "--data", data)
    note.write_text(describe(SEED).report, encoding="utf-8")
    with reading_room(data) as hub, chromium() as browser:
        enrol(data, hub.target, clinic)
        tiers = ("--tiers", "preview=always,crops=always,originals=on-request")
        text = ("--text", note, "--text-source", "report")
        call("thinwire-sender", "send", study_file(tmp_path, 900), "--data", clinic, *text, *tiers, "--wait")
        first = browser.new_page()
        enter(first, hub.link, name="root", full_name="Ada Root")
        secret = call(
            "thinwire-receiver", "account", "add", "anna", "--name-on-reports", "Dr. Anna Lund", "--data", data
        )
        own = browser.new_context(viewport={"width": 1280, "height": 800})
        page = own.new_page()
        errors = complaints(page)
        enter_as_reader(page, hub.url, secret)

        page.keyboard.press("j")
        expect(page.locator("#worklist-rows tr.selected")).to_have_count(1)
        page.keyboard.press("Enter")
        source = page.locator(".source").first
        expect(source).to_contain_text("Approximate: the preview")
        expect(source).to_contain_text("exact pixels, in frames")
        address = page.url

        # The crops are on the screen as they are in the file, pixel for pixel.
        page.keyboard.press("a")
        page.keyboard.press("x")
        view = json.loads(page.request.get(f"{address}/view").text())
        facts, body = view["crops"], page.request.get(f"{address}/samples/crops").body()
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
        first.goto(f"{hub.url}/audit")
        keep(first, "audit")
        assert "DICOM Instances Accessed" in first.content()
        assert serious(first) == []
        assert errors == []

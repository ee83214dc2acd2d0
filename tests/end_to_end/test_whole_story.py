"""The whole story with real processes: an X-ray machine, a clinic, a link of 64 kbit/s, a hub, a reader, a PACS.

`make story` plays it and leaves screenshots and a timeline. The link shapes TCP (tests/support/slow_link.py), which
needs no root: rate and delay of the profile, no loss. Only the clinic is behind it; browser and PACS stand beside the
hub.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from benchmarks.link.profiles import PROFILES
from tests.support.browser import chromium, complaints, enter, enter_as_reader, keep, needs_chromium, pictures, serious
from tests.support.dicoms import after_meta
from tests.support.peers import Orthanc, needs_dcmtk, needs_orthanc, orthanc, storescu
from tests.support.programs import ReadingRoom, call, enrol, reading_room, sending, study_file, until
from tests.support.slow_link import slow_link
from thinwire.shared.formats.bundle import default_bundle_folder

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
    needs_chromium,
    needs_dcmtk,
    needs_orthanc,
]

GPRS = PROFILES["gprs"]
SEEN = "Moderate consolidation in the left upper zone. No pneumothorax."
"""So it is in this phantom. The draft says otherwise: the reader keeps its second sentence, of the heart."""
WIDE = {"width": 1280, "height": 800}


@dataclass
class Timeline:
    """Seconds from its making, which is the end of the X-ray machine's transfer."""

    began: float = field(default_factory=time.monotonic)
    rows: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, what: str) -> float:
        self.rows.append((time.monotonic() - self.began, what))
        return self.rows[-1][0]

    def write(self, path: Path) -> None:
        link = f"{GPRS.up.rate / 1000:.0f} kbit/s, {1000 * GPRS.round_trip:.0f} ms round trip"
        lines = [
            "Seconds after the X-ray machine's transfer ended, in this one run on this machine: a story, no benchmark.",
            f"A synthetic phantom; {link}, by a relay that shapes TCP: no packets, no loss.",
            *(f"{seconds:7.1f}  {what}" for seconds, what in self.rows),
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Clinic:
    data: Path
    dicom: int
    """Port for X-ray machines."""
    page: str
    """Address of the technician's page."""

    def study(self) -> dict[str, Any]:
        """The one study, as `status` tells it."""
        (found,) = json.loads(call("thinwire-sender", "status", "--data", self.data, "--json"))["studies"]
        return dict(found)


@contextmanager
def hub_before(pacs: Orthanc, data: Path) -> Iterator[ReadingRoom]:
    """A hub that drafts reports and forwards to the PACS."""
    call("thinwire-receiver", "init", "--data", data)
    with (data / "config.toml").open("a", encoding="utf-8") as settings:
        settings.write(
            f'[draft]\nenabled = true\n[forward]\nlisten = "127.0.0.1:{pacs.commits_to}"\n'
            '[[forward.targets]]\nname = "pacs"\nkind = "c-store"\nhost = "127.0.0.1"\n'
            f'port = {pacs.dicom}\ncalled = "ORTHANC"\n'
        )
    with reading_room(data) as room:
        yield room


@contextmanager
def clinic_behind(link: int, hub: ReadingRoom, data: Path) -> Iterator[Clinic]:
    """A clinic with a DICOM port and a page, whose originals go when a reader asks. link: the port that it dials."""
    enrol(hub.data, f"127.0.0.1:{link}", data)
    with (data / "config.toml").open("a", encoding="utf-8") as settings:
        settings.write(
            '[tiers]\ncrops = "always"\noriginals = "on request"\n[page]\nport = 0\n'
            '[dicom]\nport = 0\nbind = "127.0.0.1"\nquiet_seconds = 1\n[dicom.machines.XRAY1]\n'
        )
    with sending(data) as log:

        def opened() -> list[str]:
            return re.findall(r"DICOM port open: .*:(\d+)$|page: (http\S+)", log.read_text(encoding="utf-8"), re.M)

        until(lambda: len(opened()) == 2)
        dicom, page = (next(each for each in found if each) for found in sorted(opened(), reverse=True))
        yield Clinic(data, int(dicom), page)


def stands_in_pacs(pacs: Orthanc, sent: bytes) -> None:
    """The X-ray as the machine sent it, bit for bit, a structured report and a capture, all of one study."""
    mine = pydicom.dcmread(BytesIO(sent))
    kept = pacs.instances()
    assert after_meta(kept.pop(mine.SOPInstanceUID)) == after_meta(sent)
    found = {each.Modality: each for each in (pydicom.dcmread(BytesIO(file)) for file in kept.values())}
    assert {each.SOPClassUID.name for each in found.values()} == {
        "Comprehensive SR Storage",
        "Secondary Capture Image Storage",
    }
    assert {each.StudyInstanceUID for each in found.values()} == {mine.StudyInstanceUID}


def test_an_x_ray_is_taken_crosses_is_read_and_comes_home(tmp_path: Path) -> None:
    from playwright.sync_api import expect

    with ExitStack() as stack:
        pacs = stack.enter_context(orthanc(tmp_path / "orthanc"))
        hub = stack.enter_context(hub_before(pacs, tmp_path / "hub"))
        link = stack.enter_context(slow_link(GPRS, int(hub.target.rsplit(":", 1)[-1])))
        clinic = stack.enter_context(clinic_behind(link, hub, tmp_path / "clinic"))
        browser = stack.enter_context(chromium())

        administrator, technician = (browser.new_context(viewport=WIDE).new_page() for _ in range(2))
        page = browser.new_context(viewport=WIDE).new_page()
        errors = [complaints(each) for each in (page, administrator, technician)]
        enter(administrator, hub.link, name="root", full_name="Ada Root")
        secret = call(
            "thinwire-receiver", "account", "add", "anna", "--name-on-reports", "Dr. Anna Lund", "--data", hub.data
        )
        enter_as_reader(page, hub.url, secret)
        expect(page.locator("#worklist-rows")).to_contain_text("No studies to read")

        # The X-ray machine sends; it hears of success when the study is durable at the clinic.
        file = study_file(tmp_path, 600)
        storescu(clinic.dicom, file)
        timeline = Timeline()

        # The worklist, which the reader has open, shows it by itself.
        row = page.locator("#worklist-rows tr[data-key]")
        expect(row.locator(".urgency")).not_to_have_text("not triaged")
        timeline.mark("triaged on the reader's worklist")
        keep(page, "story-1-worklist")

        page.keyboard.press("j")
        page.keyboard.press("Enter")
        source = page.locator(".source").first
        expect(source).to_contain_text("Approximate: the preview")
        timeline.mark("preview on the reader's screen")
        expect(page.locator("h1")).to_have_text("PHANTOM SYNTHETIC")
        expect(source).to_contain_text("exact pixels, in frames")
        expect(page.locator(".panel.attention")).to_contain_text(re.compile(r"[\d.]+ % of the image"))
        expect(page.locator(".panel.attention .generated")).to_contain_text("No person wrote it")
        missing = page.locator(".panel.missing")
        expect(missing).to_contain_text("The study is not complete")
        expect(page.locator(".draft .generated")).to_contain_text("Machine-written draft, unchecked")
        keep(page, "story-2-study", whole=True)

        page.keyboard.press("g")
        expect(missing).to_contain_text("The originals are requested")
        asked = timeline.mark("the full study asked for")
        expect(missing).to_contain_text(re.compile(r"originals [3-9]\d %, about \d+ s"), timeout=120_000)
        keep(page, "story-3-originals-arriving")
        technician.goto(clinic.page)
        expect(technician.locator(".parts li.crossing")).to_contain_text("originals")
        expect(technician.locator(".facts")).to_contain_text(re.compile(r"connected, [\d.,]{2,5} K?B/s"))
        keep(technician, "story-4-clinic-sends")
        expect(source).to_contain_text("Exact: the original file", timeout=180_000)
        here = timeline.mark("originals on the reader's screen")
        expect(missing).to_have_count(0)
        keep(page, "story-5-originals-exact", whole=True)

        # The report begins as the machine's draft; the reader goes on from there and signs.
        text, sentences = page.locator("#text"), page.locator(".sentence").all_inner_texts()
        expect(text).to_have_value(" ".join(sentences))
        page.keyboard.press("e")
        expect(text).to_be_focused()
        signed = " ".join([SEEN, *sentences[1:2]])
        text.fill(signed)
        page.keyboard.press("Control+s")
        expect(page.locator(".report .state")).to_have_text("draft")
        expect(source).to_contain_text("Exact: the original file")
        keep(page, "story-6-draft-edited", whole=True)
        page.click("[data-sign]")
        keep(page, "story-7-sign")
        page.click("#sign button.main")
        expect(page.locator(".report .state")).to_have_text("final")
        timeline.mark("signed")
        expect(page.locator(".report .report-text")).to_have_text(signed)
        expect(page.locator(".signature")).to_contain_text("based on a machine-written draft")
        expect(source).to_contain_text("Exact: the original file")
        keep(page, "story-8-signed", whole=True)

        # It comes home: the technician's page shows it by itself.
        expect(technician.locator(".said")).to_contain_text("read")
        timeline.mark("read, and the report, at the clinic")
        expect(technician.locator(".report .text")).to_have_text(signed)
        expect(technician.locator(".report")).to_contain_text("signed by Dr. Anna Lund")
        keep(technician, "story-9-clinic-has-the-report", whole=True)
        study = clinic.study()
        assert study["hub"] == "read"
        assert here - asked > study["parts"]["originals"]["bytes"] * 8 / GPRS.up.rate > 10  # they came over the link

        # The PACS commits to the three objects, and has them.
        forwarded = ("thinwire-receiver", "forward", "status", "--data", hub.data, "--json")
        until(lambda: len(pacs.instances()) == 3)
        stands_in_pacs(pacs, file.read_bytes())
        until(lambda: json.loads(call(*forwarded))["targets"] == {"pacs": {"confirmed": 3}})

        administrator.goto(f"{hub.url}/audit")
        for act in ("Part of a study asked for", "Report saved", "Report signed"):
            expect(administrator.locator("tbody")).to_contain_text(act)
        keep(administrator, "story-10-audit")
        assert [serious(each) for each in (page, administrator, technician)] == [[], [], []]
        assert errors == [[], [], []]
        head = call("thinwire-receiver", "audit", "verify", "--data", hub.data).strip()
        assert re.fullmatch(r"\d+:[0-9a-f]{64}", head)
        timeline.write(pictures() / "timeline.txt")

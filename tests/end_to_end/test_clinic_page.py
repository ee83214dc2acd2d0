"""The clinic's page in a real browser: it reads well, it can be used by everybody, and its buttons work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import chromium, complaints, keep, needs_chromium, serious
from tests.support.two_ends import HUB_SIGNING, SITE, TwoEnds, samples
from thinwire.sender.config import PageLimits, PageSettings
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.sender.page.facts import ClinicState
from thinwire.sender.page.server import PageServer
from thinwire.shared.errors import NotChestRadiograph
from thinwire.shared.formats.receipts import Receipt, StudyStatus, detail, sign_receipt
from thinwire.shared.listening.guard import Listeners

pytestmark = [pytest.mark.process, needs_chromium]


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    found = TwoEnds(tmp_path)
    for sample in samples(3):
        found.accept(sample)
    found.make_parts()
    first, _, last = found.outbox.entries()
    at = found.clock.now()
    triaged = {"urgency": "urgent", "reason": "effusion suspected", "findings": {"effusion": [0.81, 0.7, 0.9]}}
    report = {"report": {"text": "Left effusion.\nNo pneumothorax.", "reader": "Dr A. Banda", "at": at.isoformat()}}
    for status, facts in ((StudyStatus.TRIAGED, triaged), (StudyStatus.OPENED, {}), (StudyStatus.REPORTED, report)):
        signed = sign_receipt(Receipt(first.study, SITE, None, status, at, detail(facts)), HUB_SIGNING)
        found.outbox.record_receipt(signed)
    found.outbox.pause(last.study)
    return found


@pytest.fixture
def url(ends: TwoEnds) -> Iterator[str]:
    quarantine = Quarantine(ends.folder / "clinic" / "quarantine", ends.outbox.database, ends.disk, ends.clock)
    quarantine.add(b"x", NotChestRadiograph("its modality is CT, not CR, DX or RG"))

    def current_policy() -> CurrentPolicy:
        return CurrentPolicy(TierPolicy(budget=2_000_000), ends.clock.now(), 1_500_000, ends.outbox.paused)

    server = PageServer(
        ClinicState(ends.outbox, quarantine, current_policy), PageSettings(port=0), Listeners(), PageLimits()
    )
    try:
        yield f"http://127.0.0.1:{server.open()}/"
    finally:
        server.close()


def test_it_is_accessible_fits_and_works(ends: TwoEnds, url: str) -> None:
    with chromium() as browser:
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                said = complaints(page)
                page.goto(url)
                page.get_by_text("Probabilities").first.click()
                keep(page, f"clinic-{scheme}-{width}", whole=True)
                assert (serious(page), said) == ([], [])
                assert page.evaluate("document.documentElement.scrollWidth") == width
                page.close()
        page = browser.new_page()
        page.goto(url)
        page.get_by_role("button", name="Pause all sending").click()
        page.get_by_text("All sending is paused").wait_for()
        assert ends.outbox.paused
        page.get_by_role("button", name="Resume sending").click()
        page.get_by_role("button", name="Make urgent").first.click()
        page.get_by_text("urgent", exact=True).first.wait_for()
        assert any(entry.urgent for entry in ends.outbox.entries())
        # A change at the clinic appears by itself.
        ends.outbox.pause()
        page.get_by_text("All sending is paused").wait_for()

"""The clinic's page: its content, no use of its buttons by another site's page, metrics and health."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert
from starlette.testclient import TestClient

from tests.support.clinic import SmallDisk
from tests.support.two_ends import HUB_SIGNING, SITE, Sample, TwoEnds, samples
from thinwire.sender.config import PageLimits, PageSettings
from thinwire.sender.intake.deidentify import MEANINGS, Identity
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tables import unreadable
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.sender.page.facts import ClinicState
from thinwire.sender.page.server import PageServer, build
from thinwire.sender.transport import link_status
from thinwire.sender.transport.link_status import LinkState, LinkStatus, TransferProgress
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import issue_client, new_authority, new_request
from thinwire.shared.errors import NotChestRadiograph
from thinwire.shared.formats.receipts import Receipt, StudyStatus, detail, sign_receipt
from thinwire.shared.listening.guard import Listeners

FIRST, SECOND = samples(2)
OWN = "http://127.0.0.1:8080"
HOSTILE = "No effusion.\n<script>alert('x')</script> & <b>bold</b>"


class Page:
    def __init__(self, folder: Path) -> None:
        self.ends = TwoEnds(folder)
        self.ends.disk = SmallDisk(self.ends.fuse)
        self.ends.outbox = self.ends.new_outbox()
        for sample in (FIRST, SECOND):
            self.ends.accept(sample)
        self.ends.make_parts()
        self.quarantine = Quarantine(
            folder / "clinic" / "quarantine", self.ends.outbox.database, self.ends.disk, self.ends.clock
        )
        self.certificate: bytes | None = None
        self.clinic = ClinicState(
            self.ends.outbox, self.quarantine, self.current_policy, lambda: 2, certificate=lambda: self.certificate
        )
        self.client = TestClient(
            build(self.clinic, PageSettings(port=0)),
            OWN,
            follow_redirects=False,
            headers={"Origin": OWN},
        )

    def current_policy(self) -> CurrentPolicy:
        months = {"2026-03": (1_500_000, 20_000)}
        return CurrentPolicy.at(TierPolicy(budget=2_000_000), self.ends.clock.now(), months, self.ends.outbox.paused)

    def token(self) -> str:
        found = re.search(r'name="token" value="([0-9a-f]{48})"', self.client.get("/").text)
        assert found
        return found[1]

    def press(self, act: str, study: Sample | None = None, **headers: str) -> int:
        form = {"token": self.token(), "act": act, "study": study.study.hex() if study else ""}
        return self.client.post("/act", data=form, headers=headers).status_code


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


def test_it_warns_of_a_certificate_that_ends(page: Page) -> None:
    page.certificate = issue_client(new_authority(page.ends.clock), SITE, new_request(SITE)[1], page.ends.clock)
    assert "certificate" not in page.client.get("/").text
    for days, said in ((640, "ends on 2028-03-03 and is not renewed"), (120, "ended on 2028-03-03: ask the hub")):
        page.ends.clock.advance(days * 86_400)
        assert said in page.client.get("/").text
    assert "thinwire_certificate_expires_seconds -" in page.client.get("/metrics").text


def test_it_shows_where_each_part_is_and_why_it_waits(page: Page) -> None:
    (due,) = (d for d in page.ends.outbox.due() if d.study == FIRST.study and d.kind is Kind.ORIGINALS)
    crossing = TransferProgress(FIRST.study, Kind.ORIGINALS, due.object, 15_000, 10_000, due.size)
    status = LinkStatus(LinkState.CONNECTED, "", 8_000.0, 0.5, (crossing,))
    link_status.write_status(page.ends.outbox.folder, status, page.ends.clock.now())
    page.ends.outbox.pause(SECOND.study)
    text = page.client.get("/").text
    assert "north-valley" in text
    assert "8,000 B/s" in text
    assert "1.5 MB of 2.0 MB" in text
    assert f"{100 * 10_000 // due.size} %" in text
    assert "Complete in about" in text
    assert "paused, until it is resumed" in text
    assert "2 arriving" in text


def test_the_result_and_the_report_come_as_the_hub_signed_them_and_as_text_alone(page: Page) -> None:
    at = page.ends.clock.now()
    triaged = {"urgency": "urgent", "reason": "effusion", "findings": {"effusion": [0.81, 0.7, 0.9]}}
    report = {"report": {"state": "final", "text": HOSTILE, "reader": "Dr <Reader>", "at": "2026-03-04T12:30:00Z"}}
    for status, facts in ((StudyStatus.TRIAGED, triaged), (StudyStatus.OPENED, {}), (StudyStatus.REPORTED, report)):
        receipt = Receipt(FIRST.study, SITE, None, status, at, detail(facts))
        page.ends.outbox.record_receipt(sign_receipt(receipt, HUB_SIGNING))
    text = page.client.get("/studies").text
    assert "0.81" in text
    assert "0.70 to 0.90" in text
    assert "prediction, not a diagnosis" in text
    assert "opened by a reader" in text
    assert "&lt;script&gt;alert(" in text
    assert "<script" not in text
    assert "<b>bold" not in text
    assert "Dr &lt;Reader&gt;" in text


def test_a_result_in_an_unknown_form_is_left_out(page: Page) -> None:
    odd = {"urgency": "routine", "findings": {"effusion": 0.5, "nodule": ["a", "b", "c"]}, "report": "words"}
    for status in (StudyStatus.TRIAGED, StudyStatus.REPORTED):
        receipt = Receipt(FIRST.study, SITE, None, status, page.ends.clock.now(), detail(odd))
        page.ends.outbox.record_receipt(sign_receipt(receipt, HUB_SIGNING))
    assert "routine" in page.client.get("/").text


def test_the_buttons_do_what_they_say(page: Page) -> None:
    outbox = page.ends.outbox
    assert (page.press("pause"), outbox.paused) == (303, True)
    assert "All sending is paused" in page.client.get("/").text
    assert (page.press("resume"), outbox.paused) == (303, False)
    assert page.press("pause", FIRST) == 303
    assert [entry.paused for entry in outbox.entries()].count(True) == 1
    assert page.press("urgent", SECOND) == 303
    assert outbox.entry(SECOND.study).urgent
    assert page.press("urgent") == 303
    assert not outbox.entry(FIRST.study).urgent


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_origin_cannot_press_them_even_with_the_token(page: Page, headers: dict[str, str]) -> None:
    assert page.press("pause", None, **headers) == 403
    assert not page.ends.outbox.paused


def test_a_form_without_the_token_of_this_start_does_nothing(page: Page) -> None:
    for token in ("", "0" * 48, "ä"):
        answer = page.client.post("/act", data={"token": token, "act": "pause"})
        assert answer.status_code == 403
    assert page.client.get("/act").status_code == 405
    assert not page.ends.outbox.paused


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example"])
def test_another_name_is_not_served(page: Page, host: str) -> None:
    assert page.client.get("/", headers={"host": host}).status_code == 400
    assert page.client.get("/metrics", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    ("form", "code"),
    [({"act": "erase"}, 400), ({"act": "pause", "study": "zz"}, 400), ({"act": "pause", "study": "ff" * 16}, 404)],
)
def test_what_is_no_button_or_no_study_is_refused(page: Page, form: dict[str, str], code: int) -> None:
    assert page.client.post("/act", data={"token": page.token(), **form}).status_code == code
    assert page.client.post("/act", content=b"a" * 5000).status_code == 413


def test_what_cannot_be_read_is_counted(page: Page) -> None:
    assert "cannot be read" not in page.client.get("/studies").text
    with page.ends.outbox.database.write() as connection:
        connection.execute(insert(unreadable).values(path="outbox/00", reason="it is damaged", at=0))
    assert "Files that cannot be read, and are kept: 1." in page.client.get("/studies").text


@pytest.mark.parametrize("word", Identity)
def test_it_says_where_the_identity_goes(page: Page, word: Identity) -> None:
    clinic = replace(page.clinic, identity=word)
    shown = TestClient(build(clinic, PageSettings(port=0)), OWN).get("/").text
    assert f"Identity: <b>{word}</b>, {MEANINGS[word]}" in shown


def test_every_answer_forbids_what_the_page_does_not_need(page: Page) -> None:
    for path in ("/", "/studies", "/static/page.js", "/healthz"):
        headers = page.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    text = page.client.get("/").text
    assert "style=" not in text
    assert " on" not in re.sub(r">[^<]*<", "><", text)


def test_metrics_count_and_name_nobody(page: Page) -> None:
    page.quarantine.add(b"x", NotChestRadiograph("its modality is CT, not CR, DX or RG"))
    text = page.client.get("/metrics").text
    assert 'thinwire_studies{state="sending"} 2.0' in text
    assert 'thinwire_parts{state="waiting",tier="originals"} 2.0' in text
    assert "thinwire_month_link_bytes 1.52e+06" in text
    assert "thinwire_quarantine_files 1.0" in text
    assert "thinwire_arriving_studies 2.0" in text
    assert FIRST.study.hex() not in text


def test_a_clinic_is_ill_when_its_disk_is_full_and_not_when_the_link_is_down(page: Page) -> None:
    answer = page.client.get("/healthz")
    assert (answer.status_code, answer.json()["link"]) == (200, "stopped")
    assert isinstance(page.ends.disk, SmallDisk)
    page.ends.disk.left = 0
    assert page.client.get("/healthz").status_code == 503


def test_the_server_opens_and_closes(page: Page) -> None:
    import http.client

    server = PageServer(page.clinic, PageSettings(port=0), Listeners(), PageLimits())
    number = server.open()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", number, timeout=30)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.close()

"""The reading room's pages: permissions, content, audit messages and refusals."""

import json
import re

import numpy as np
import pytest

from tests.support.dicoms import chest, dicom
from tests.support.hub_folder import Clinic, StudyParts, study_parts
from tests.support.reading_room import ORIGIN, PASSWORD, ReadingRoom, rows
from thinwire.receiver.access.accounts import Role
from thinwire.receiver.access.attempts import FREE
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.retention import Retention
from thinwire.receiver.store.events import STUDIES
from thinwire.receiver.transport.ingest import IncomingObject
from thinwire.receiver.transport.link_status import SiteLink, write_status
from thinwire.receiver.web.frame import linear_fit
from thinwire.receiver.web.guard import MOST_POSTED
from thinwire.receiver.web.rows import PAGE
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats import crops
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import SiteName

SITE = SiteName("north-valley")


@pytest.fixture
def room(hub: Hub) -> ReadingRoom:
    return ReadingRoom(hub)


def statuses(hub: Hub) -> list[StudyStatus]:
    key = hub.keys.signing.public_key()
    return [read_receipt(signed, key).status for signed in hub.store.undelivered_receipts(SITE)]


# Who may.


def test_nothing_is_shown_to_nobody(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts, Kind.PREVIEW)
    browser = room.browser()
    for path in ("/", "/audit", study):
        assert browser.client.get(path, follow_redirects=False).headers["location"] == "/sign-in"
    for path in ("/rows", "/events", f"{study}/view", f"{study}/samples/base", f"{study}/state"):
        answer = browser.client.get(path, headers={"Sec-Fetch-Mode": "cors"})
        assert answer.status_code == 401, path
    browser.post(f"{study}/report", 401, text="x", act="save", version="0")
    assert StudyStatus.OPENED not in statuses(room.hub)


@pytest.mark.parametrize("forged", ["x", "a" * 43, "' OR 1=1 --"])
def test_a_forged_session_is_nobody_s(room: ReadingRoom, forged: str) -> None:
    room.person("anna")
    browser = room.browser()
    browser.client.cookies.set("__Host-thinwire", forged)
    browser.get("/", 303)


def test_the_first_administrator_enters_by_a_link_once(room: ReadingRoom) -> None:
    link = room.room.accounts.first()
    browser = room.browser()
    assert "The first administrator" in browser.get(f"/welcome/{link}")
    fields = {"password": PASSWORD, "again": PASSWORD, "name": "root", "full_name": "Ada Root"}
    assert "differ" in browser.post(f"/welcome/{link}", 400, **{**fields, "again": "another"})
    assert "too short" in browser.post(f"/welcome/{link}", 400, **{**fields, "password": "x", "again": "x"})
    browser.post(f"/welcome/{link}", 303, **fields)
    assert "Audit log" in browser.get("/")
    assert "no longer valid" in room.browser().get(f"/welcome/{link}", 404)
    assert any("Login" in message and "root" in message for message in room.audited())


def test_a_cookie_that_only_this_host_gets_by_https_and_no_script_reads(room: ReadingRoom) -> None:
    browser = room.person("anna")
    answer = browser.client.post("/sign-in", data={"name": "anna", "password": PASSWORD}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-thinwire=")
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in cookie
    page = browser.client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert "style=" not in page.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page.text)
    assert "onclick" not in page.text


def test_wrong_passwords_are_slowed(room: ReadingRoom) -> None:
    room.person("anna")
    browser = room.browser()
    for _ in range(FREE):
        browser.post("/sign-in", 401, name="anna", password="wrong")
    assert "Too many tries" in browser.post("/sign-in", 429, name="anna", password=PASSWORD)
    room.clock.advance(10)
    browser.post("/sign-in", 303, name="anna", password=PASSWORD)
    browser.post("/sign-in", 401, name="password-in-the-wrong-field", password="x")
    assert "password-in-the-wrong-field" not in "".join(room.audited())


def test_her_own_browser_is_not_slowed_by_others(room: ReadingRoom) -> None:
    anna = room.person("anna")
    other = room.browser()
    for _ in range(FREE):
        other.post("/sign-in", 401, name="anna", password="wrong")
    other.post("/sign-in", 429, name="anna", password=PASSWORD)
    device = next(name for name in anna.client.cookies if "device" in name)
    value = str(anna.client.cookies[device])
    assert "anna" not in device + value
    bert = room.person("bert")
    foreign = room.browser()
    foreign.client.cookies.set(device, next(v for n, v in bert.client.cookies.items() if "device" in n))
    foreign.post("/sign-in", 429, name="anna", password=PASSWORD)
    mine = room.browser()
    mine.client.cookies.set(device, value)
    mine.post("/sign-in", 303, name="anna", password=PASSWORD)
    for _ in range(FREE):
        mine.post("/sign-in", 401, name="anna", password="wrong")
    mine.post("/sign-in", 429, name="anna", password=PASSWORD)


def test_forms_of_other_pages_are_refused(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts)
    anna, bert = room.person("anna"), room.person("bert")
    path, fields = f"{study}/report", {"text": "x", "act": "sign", "version": "0"}
    anna.client.headers["Origin"] = "https://evil.example"
    assert "another page" in anna.post(path, 403, **fields)
    del anna.client.headers["Origin"]
    anna.post(path, 403, **fields)
    anna.client.headers["Sec-Fetch-Site"] = "cross-site"
    anna.post(path, 403, **fields)
    anna.client.headers.update({"Sec-Fetch-Site": "same-origin", "Origin": ORIGIN})
    for key in ("", bert.key):
        anna.key = key
        assert "another session" in anna.post(path, 403, **fields)
    assert room.room.store.report(SITE, parts.study) is None
    anna.get("/")
    assert "too long" in anna.post(path, 413, **{**fields, "text": "x" * MOST_POSTED})
    anna.post(path, 303, **fields)


def test_roles_keep_to_their_own(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts)
    admin, reader = room.person("root", Role.ADMINISTRATOR), room.person("anna")
    page = admin.get(study)
    assert "textarea" not in page
    assert StudyStatus.OPENED not in statuses(room.hub)  # no reader has seen it
    assert "role reader" in admin.post(f"{study}/report", 403, text="x", act="sign", version="0")
    admin.post(f"{study}/request", 403, tier="originals")
    assert "role administrator" in reader.get("/audit", 403)
    assert room.room.store.requested_parts(SITE) == []
    log = admin.get("/audit")
    assert "not allowed for administrator" in log
    assert "not allowed for reader" in log


def test_a_session_that_is_signed_out_is_over(room: ReadingRoom) -> None:
    browser = room.person("anna")
    secret = browser.client.cookies["__Host-thinwire"]
    browser.post("/sign-out")
    browser.client.cookies.set("__Host-thinwire", secret)
    browser.get("/", 303)


# The list.


def test_the_list_shows_what_a_reader_needs(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    room.put_study(clinic, parts, Kind.PREVIEW)
    reader = room.person("anna")
    page = reader.get("/")
    assert rows(page) == [f"{SITE}/{parts.study.hex()}"]
    (prediction,) = [each.prediction for each in room.room.store.studies()]
    assert prediction is not None
    for words in (
        prediction.reason,
        "95 % interval",
        "waiting cap 4 h",
        "graph received, preview received",
        "report",
        "kept",
    ):
        assert words in page, words
    assert "PHANTOM-1" not in page
    room.clock.advance(4 * 3600)
    assert ">overdue<" in room.person("bert").get("/")
    assert parts.study.hex() in room.person("carl").get("/rows?urgency=nonsense&site=<script>")


def test_an_estimate_follows_the_link_s_measured_rate(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    room.put_study(clinic, parts, Kind.PREVIEW)
    reader, now = room.person("anna"), room.clock.now()
    assert "originals: the clinic is not connected" in reader.get("/")
    write_status(room.hub.data, [SiteLink(SITE, True, now, now)], now)
    assert "originals: at the clinic, not requested" in reader.get("/")
    moving = (IncomingObject(parts.study, Kind.ORIGINALS, 250_000, 1_000_000),)
    write_status(room.hub.data, [SiteLink(SITE, True, now, now, 5000.0, moving)], now)
    assert "originals 25 %, about 2 min" in reader.get("/")
    write_status(room.hub.data, [SiteLink(SITE, True, now, now, 0.0, moving)], now)
    assert "no data on the link now" in reader.get("/")


def test_pages_filters_and_search(room: ReadingRoom, clinic: Clinic, bundle: Bundle) -> None:
    room.put(clinic, *(study_parts(clinic, bundle, seed).graph for seed in range(PAGE + 2)))
    parts = study_parts(clinic, bundle, 3)
    room.put(clinic, parts.manifest)
    reader = room.person("anna")
    assert len(rows(reader.get("/"))) == PAGE
    first = reader.get("/")
    assert f"{PAGE} of {PAGE + 2}" in first
    (later,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = reader.get(later.replace("&amp;", "&"))
    assert len(rows(second)) == 2
    assert not set(rows(first)) & set(rows(second))
    assert 'rel="next"' not in second
    (earlier,) = re.findall(r'rel="prev" href="([^"]+)"', second)
    assert rows(reader.get(earlier.replace("&amp;", "&"))) == rows(first)
    assert rows(reader.get("/rows?after=nonsense&before=1.2.3.<b>.00")) == rows(first)
    assert rows(reader.get("/?state=read")) == []
    by_urgency = [
        len(rows(reader.get(f"/?urgency={name}"))) for name in ("immediate", "urgent", "uncertain", "routine")
    ]
    assert sum(min(PAGE, n) for n in by_urgency) >= PAGE
    short = parts.study.hex()[:10]
    assert rows(reader.post("/search", 200, query=short)) == [f"{SITE}/{parts.study.hex()}"]
    assert rows(reader.post("/search", 200, query="PHANTOM-1")) == [f"{SITE}/{parts.study.hex()}"]
    assert "No study matches" in reader.post("/search", 200, query="<b>nothing</b>")
    assert "PHANTOM" not in "".join(room.audited())


# The study.


def test_a_study_is_opened_once_and_each_view_is_written_down(
    room: ReadingRoom, clinic: Clinic, parts: StudyParts
) -> None:
    study = room.put_study(clinic, parts, Kind.PREVIEW, Kind.CROPS)
    reader = room.person("anna")
    page = reader.get(study)
    reader.get(study)
    assert statuses(room.hub).count(StudyStatus.OPENED) == 1
    for words in ("PHANTOM-1", "5 of 64 patches", "the report that came", "not received", "Request originals now"):
        assert words in page, words
    study_images = [m for m in room.audited() if "Instances Accessed" in m]
    assert len(study_images) == 2
    assert parts.study.hex() in study_images[0]
    assert "PHANTOM" not in "".join(room.audited())
    reader.get(f"{study}/state")
    reader.get(f"{study}/view")
    assert len([m for m in room.audited() if "Instances Accessed" in m]) == 2
    room.clock.advance(601)
    reader.get(f"{study}/samples/base")
    assert len([m for m in room.audited() if "Instances Accessed" in m]) == 3
    assert room.hub.audit.verify().number == len(room.audited())


def test_no_view_without_its_line_in_the_log(room: ReadingRoom, clinic: Clinic, parts: StudyParts, hub: Hub) -> None:
    study = room.put_study(clinic, parts, Kind.PREVIEW)
    reader = room.person("anna")
    with hub.database.write() as connection:
        connection.exec_driver_sql("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'x'); END")
    reader.client._transport.raise_server_exceptions = False  # type: ignore[attr-defined]
    page = reader.get(study, 500)
    assert "PHANTOM-1" not in page


def test_what_is_exact_comes_exactly(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts, Kind.PREVIEW, Kind.CROPS)
    reader = room.person("anna")
    view = json.loads(reader.get(f"{study}/view"))
    assert view["native"] == [280, 300]
    assert view["spacing"] == [0.14, 0.14]
    assert view["base"]["exact"] is False
    assert view["crops"]["exact"] is True
    assert len(view["patches"]) == 5
    plain = room.room.store.plaintext(SITE, parts.study, Kind.CROPS)
    assert plain is not None
    found = crops.decode(plain, 1 << 30)
    facts = view["crops"]
    body = reader.client.get(f"{study}/samples/crops").content
    tone, samples = np.frombuffer(body[: facts["levels"]], np.uint8), np.frombuffer(body[facts["levels"] :], "<u2")
    at = 0
    for (x, y, w, h), rectangle, want in zip(facts["rectangles"], found.rectangles, found.samples, strict=True):
        assert (x, y, w, h) == (rectangle.x, rectangle.y, rectangle.width, rectangle.height)
        np.testing.assert_array_equal(samples[at : at + w * h].reshape(h, w), want)
        at += w * h
    assert at == len(samples)
    np.testing.assert_array_equal(tone, found.tone)
    reader.get(f"{study}/samples/originals", 404)


def test_a_window_s_line_goes_through_the_tone() -> None:
    tone = np.clip(np.arange(-500, 1500) / 4, 0, 255).astype(np.uint8)
    slope, intercept = linear_fit(tone)
    assert abs(slope - 0.25) < 0.001
    assert abs(slope * 1000 + intercept - tone[1000]) < 1
    falling = linear_fit(255 - tone)
    assert abs(falling[0] + 0.25) < 0.001
    assert linear_fit(np.zeros(7, np.uint8))[0] > 0


def test_the_originals_replace_preview_and_crops(room: ReadingRoom, clinic: Clinic, bundle: Bundle) -> None:
    pixels = chest(300, 280)
    parts = study_parts(clinic, bundle, files=(dicom(pixels),))
    study = room.put_study(clinic, parts, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
    reader = room.person("anna")
    view = json.loads(reader.get(f"{study}/view"))
    assert view["base"]["exact"] is True
    assert view["crops"] is None
    body = reader.client.get(f"{study}/samples/base").content
    values = np.frombuffer(body[view["base"]["levels"] :], "<u2").reshape(300, 280)
    np.testing.assert_array_equal(values, pixels - pixels.min())
    assert "The study is not complete" not in reader.get(study)


def test_asking_for_the_full_study_asks_the_clinic_now(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts, Kind.PREVIEW)
    told: list[str] = []
    room.hub.news.subscribe(lambda topics, _: told.extend(topics - {STUDIES}))
    reader = room.person("anna")
    reader.post(f"{study}/request", 400, tier="everything")
    reader.post(f"{study}/request", tier="originals")
    assert room.room.store.requested_parts(SITE) == [(parts.study, Kind.ORIGINALS)]
    assert told == [SITE]
    assert "The originals are requested" in reader.get(study)
    assert "Request originals now" not in reader.get(study)
    assert any("Part of a study asked for" in m for m in room.audited())


@pytest.mark.parametrize("path", ["/studies/x/00", "/studies/north-valley/zz", f"/studies/north-valley/{'00' * 16}"])
def test_a_study_that_is_not_there(room: ReadingRoom, path: str) -> None:
    room.person("anna").get(path, 404)


# The report.


def test_script_tags_in_a_report_stay_words(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts)
    reader = room.person("anna")
    bad = "</textarea><script>alert(1)</script>\"'&"
    reader.post(f"{study}/report", text=bad, act="save", version="0")
    page = reader.get(study)
    assert "<script>alert" not in page
    assert "&lt;/textarea&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    reader.post(f"{study}/report", text=bad, act="sign", version="1")
    assert "<script>alert" not in reader.get(study)
    kept = room.room.store.report(SITE, parts.study)
    assert kept is not None
    assert kept.text == bad  # nothing of a reader's words is lost


def test_a_report_is_signed_by_its_reader_and_read_at_the_clinic(
    room: ReadingRoom, clinic: Clinic, parts: StudyParts
) -> None:
    study = room.put_study(clinic, parts)
    anna, bert = room.person("anna"), room.person("bert")
    anna.get(study)
    anna.post(f"{study}/report", text="No pneumothorax.", act="release", version="0")
    said = bert.post(f"{study}/report", 409, text="Mine.", act="save", version="0")
    for words in ("saved by somebody else", "Mine.", "No pneumothorax.", 'name="version" value="1"'):
        assert words in said, words
    assert "The report is empty" in anna.post(f"{study}/report", 400, text=" ", act="sign", version="1")
    anna.post(f"{study}/report", text="No pneumothorax.", act="sign", version="1")
    page = anna.get(study)
    assert "Signed by <strong>Dr. Anna</strong>" in page
    assert "textarea" not in page
    assert statuses(room.hub)[-1] is StudyStatus.REPORTED
    assert "is signed" in bert.post(f"{study}/report", 409, text="Late.", act="sign", version="2")
    assert rows(anna.get("/")) == []
    assert len(rows(anna.get("/?state=read"))) == 1
    acts = [m for m in room.audited() if "Patient Record" in m]
    assert ["released" in acts[0], "signed" in acts[-1]] == [True, True]


def test_a_machine_s_draft_says_that_it_is_one(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    draft = {"sentences": [{"text": "No <b>effusion</b>.", "share": [0.2] * 5}], "bundle": "00" * 16}
    room = ReadingRoom(hub, lambda site, study: json.dumps(draft).encode() if study == parts.study else None)
    study = room.put_study(clinic, parts)
    reader = room.person("anna")
    page = reader.get(study)
    assert "Machine-written draft, unchecked" in page
    assert 'data-shares="0.200,0.200,0.200,0.200,0.200"' in page
    assert "No <b>" not in page
    assert page.index("Machine-written draft, unchecked") < page.index("<textarea")
    reader.post(f"{study}/report", text="No effusion.", act="sign", version="0", from_draft="true")
    page = reader.get(study)
    assert "based on a machine-written draft" in page
    assert page.index("based on a machine-written draft") < page.index("Machine-written draft, unchecked")


def test_a_draft_that_is_written_late_comes_to_the_open_page(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    room = ReadingRoom(hub, hub.store.draft)
    study = room.put_study(clinic, parts)
    reader = room.person("anna")
    assert "Machine-written draft, unchecked" not in reader.get(study)
    assert "Machine-written draft, unchecked" not in reader.get(f"{study}/state")
    before = hub.store.event_stamp()
    (waiting,) = hub.store.undrafted(8)
    draft = {"sentences": [{"text": "No effusion.", "share": [0.2] * 5}], "bundle": "00" * 16}
    hub.store.add_draft(waiting, json.dumps(draft).encode())
    assert hub.store.event_stamp() != before
    assert "Machine-written draft, unchecked" in reader.get(f"{study}/state")


def test_whose_study_it_is_comes_to_the_open_page(room: ReadingRoom, clinic: Clinic, bundle: Bundle) -> None:
    parts = study_parts(clinic, bundle, 6, identity={"PatientName": "PHANTOM^SIX"})
    study = f"/studies/{SITE}/{parts.study.hex()}"
    room.put(clinic, parts.graph)
    reader = room.person("anna")
    assert "Patient not known yet" in reader.get(study)
    room.put(clinic, parts.manifest)
    assert "PHANTOM SIX" in reader.get(f"{study}/state")


def test_a_prior_is_the_same_patient_s_and_earlier(room: ReadingRoom, clinic: Clinic, bundle: Bundle) -> None:
    born = {"PatientID": "PHANTOM-7", "PatientBirthDate": "19610412"}
    dated = [
        ({**born, "StudyDate": "20260301"}, 1),
        ({**born, "StudyDate": "20250110"}, 2),
        ({**born, "StudyDate": "20240110"}, 3),
        ({**born, "PatientBirthDate": "19990101", "StudyDate": "20250606"}, 4),
        ({"PatientID": "PHANTOM-8", "StudyDate": "20250606"}, 5),
    ]
    paths = []
    for identity, seed in dated:
        parts = study_parts(clinic, bundle, seed, identity=identity)
        room.put(clinic, parts.graph, parts.manifest)
        paths.append(f"/studies/{SITE}/{parts.study.hex()}")
    reader = room.person("anna")
    page = reader.get(paths[0])
    assert "Prior 2025-01-10" in page
    assert paths[1] in page
    assert "Prior 2024-01-10" in reader.get(paths[1])
    for path in (paths[2], paths[3], paths[4]):
        assert "Prior" not in reader.get(path)


def test_without_a_graph_there_is_a_page_all_the_same(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    room.put(clinic, parts.manifest)
    reader = room.person("anna")
    page = reader.get(f"/studies/{SITE}/{parts.study.hex()}")
    assert "The graph is not received yet" in page
    view = json.loads(reader.get(f"/studies/{SITE}/{parts.study.hex()}/view"))
    assert (view["base"], view["crops"], view["patches"]) == (None, None, [])


def test_the_page_of_an_erased_study_says_so(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> None:
    study = room.put_study(clinic, parts, Kind.ORIGINALS)
    reader, administrator = room.person("anna"), room.person("root", Role.ADMINISTRATOR)
    reader.get(study)
    reader.post(f"{study}/report", 303, text="clear lungs", act="sign", version="0")
    Retention(room.hub).ask([(SITE, parts.study)], 0, True, lambda _: None)
    Retention(room.hub).run()
    for browser in (reader, administrator):
        page = browser.get(study, 410)
        assert "was removed from the hub" in page
        assert "clear lungs" in page, "a signed report stays unless the setting says otherwise"
    reader.get(f"{study}/state", 410)
    reader.post(f"{study}/report", 410, text="x", act="save", version="2")
    assert room.room.frames._cache == {}

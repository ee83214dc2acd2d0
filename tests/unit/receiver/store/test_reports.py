"""A report's states, its versions in the store, and the word of it that goes to the clinic."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from tests.support.clock import START, FakeClock
from tests.support.hub_folder import join, study_parts
from tests.support.power import Fuse, LossyDisk, PowerCut
from tests.support.reading_room import quiet
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.store.events import STUDIES
from thinwire.receiver.store.reports import (
    MAX_TEXT,
    Report,
    ReportEvent,
    ReportState,
    checked_text,
    next_state,
    report_detail,
)
from thinwire.shared.errors import BadInput, ReportMoved, ReportSigned
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.receipts import MAX_DETAIL, StudyStatus, read_receipt
from thinwire.shared.identifiers import SiteName, StudyKey

SITE = SiteName("north-valley")


def written(study: StudyKey, text: str, version: int = 1) -> Report:
    return Report(SITE, study, version, ReportState.DRAFT, text, "a.lund", "Dr. Anna Lund", False, START)


@pytest.fixture
def study(data: Path, bundle: Bundle) -> StudyKey:
    """A study whose graph is at the hub."""
    with open_hub(data, FakeClock()) as hub:
        clinic = join(hub)
        parts = study_parts(clinic, bundle)
        graph = parts.graph
        hub.pipeline().put(SITE, graph.object, graph.header, graph.plaintext, False)
        return parts.study


@pytest.fixture
def hub(data: Path, study: StudyKey) -> Iterator[Hub]:
    with open_hub(data, FakeClock()) as opened:
        yield opened


def receipts(hub: Hub) -> list[tuple[StudyStatus, dict[str, object]]]:
    key = hub.keys.signing.public_key()
    read = [read_receipt(signed, key) for signed in hub.store.undelivered_receipts(SITE)]
    return [(each.status, json.loads(each.detail)) for each in read]


@pytest.mark.parametrize("event", list(ReportEvent))
def test_nothing_follows_a_signed_report(event: ReportEvent) -> None:
    with pytest.raises(ReportSigned):
        next_state(ReportState.FINAL, event)


def test_text_is_kept_as_words_and_lines() -> None:
    assert checked_text("  a \r\nb\x00\x1b[31m\r\n\tc\u202e \n\n", ReportEvent.SAVED) == "a\nb[31m\n\tc"
    assert checked_text("<script>alert(1)</script>", ReportEvent.SIGNED) == "<script>alert(1)</script>"
    assert checked_text(" \n", ReportEvent.SAVED) == ""
    with pytest.raises(BadInput, match="the report is empty"):
        checked_text(" \n", ReportEvent.SIGNED)
    with pytest.raises(BadInput, match="8001 characters"):
        checked_text("a" * (MAX_TEXT + 1), ReportEvent.SAVED)
    with pytest.raises(BadInput):
        checked_text("語" * MAX_TEXT, ReportEvent.SAVED)


def test_the_longest_report_fits_its_receipt() -> None:
    assert len(report_detail(written(StudyKey(bytes(16)), "é" * 7000))) <= MAX_DETAIL
    with pytest.raises(BadInput, match="too long"):
        report_detail(replace(written(StudyKey(bytes(16)), '"' * MAX_TEXT), reader_name="語" * 128))


def test_a_report_is_drafted_released_signed_and_told_to_the_clinic(hub: Hub, study: StudyKey) -> None:
    pipeline, told = hub.pipeline(), list[SiteName]()
    hub.news.subscribe(lambda topics, _: told.extend(SiteName(each) for each in topics - {STUDIES}))
    pipeline.record_opened(SITE, study)
    pipeline.record_opened(SITE, study)
    assert [status for status, _ in receipts(hub)][-1:] == [StudyStatus.OPENED]
    events = (ReportEvent.SAVED, ReportEvent.RELEASED, ReportEvent.SAVED, ReportEvent.SIGNED)
    states = [
        pipeline.report(written(study, f"Text {n}.", n), event, quiet).state for n, event in enumerate(events, start=1)
    ]
    assert states == [ReportState.DRAFT, ReportState.PRELIMINARY, ReportState.PRELIMINARY, ReportState.FINAL]
    status, facts = receipts(hub)[-1]
    assert status is StudyStatus.REPORTED
    assert facts["report"] == {
        "state": "final",
        "text": "Text 4.",
        "reader": "Dr. Anna Lund",
        "at": "2026-03-04T12:00:00Z",
        "from_draft": False,
    }
    assert told == [SITE, SITE]
    kept = hub.store.report(SITE, study)
    assert kept is not None
    assert (kept.version, kept.state) == (4, ReportState.FINAL)
    with pytest.raises(ReportSigned):
        pipeline.report(written(study, "Later.", 5), ReportEvent.SAVED, quiet)
    (listed,) = hub.store.studies()
    assert (listed.opened, listed.report) == (True, ReportState.FINAL)


def test_of_two_who_save_at_once_one_hears_of_it(hub: Hub, study: StudyKey) -> None:
    pipeline = hub.pipeline()
    pipeline.report(written(study, "Mine."), ReportEvent.SAVED, quiet)
    with pytest.raises(ReportMoved):
        pipeline.report(written(study, "Yours."), ReportEvent.SIGNED, quiet)
    kept = hub.store.report(SITE, study)
    assert kept is not None
    assert kept.text == "Mine."
    assert StudyStatus.REPORTED not in [status for status, _ in receipts(hub)]


def test_no_version_is_ever_altered(hub: Hub, study: StudyKey) -> None:
    hub.pipeline().report(written(study, "Mine."), ReportEvent.SAVED, quiet)
    with pytest.raises(IntegrityError, match="only added"), hub.database.write() as connection:
        connection.exec_driver_sql("UPDATE reports SET text = 'x'")


@pytest.mark.parametrize(("step", "there"), [("store.report.before_commit", False), ("store.report.committed", True)])
def test_a_power_cut_leaves_report_receipt_and_audit_or_none(
    data: Path, study: StudyKey, step: str, there: bool
) -> None:
    message = Message(Act.REPORT_SIGNED, START, "a.lund", "", SITE, study)
    with open_hub(data, FakeClock(), LossyDisk(Fuse((step, 1)))) as cut, pytest.raises(PowerCut):
        cut.pipeline().report(
            written(study, "Signed."), ReportEvent.SIGNED, lambda connection: cut.audit.append(connection, message)
        )
    with open_hub(data, FakeClock()) as again:
        assert (again.store.report(SITE, study) is not None) is there
        assert (StudyStatus.REPORTED in [status for status, _ in receipts(again)]) is there
        assert again.audit.verify().number == int(there)

"""Deliveries to a target: planned from events, sent once, again where it failed, never another under the same UID."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from io import BytesIO

import pydicom
import pytest
from sqlalchemy import func, select

from tests.support.clock import START, FakeClock
from tests.support.forwarded_hub import keep_study, next_plan
from tests.support.hub_folder import Clinic, damage_blob
from tests.support.machine_results import image_file
from tests.support.programs import until
from tests.support.scripted_peer import ScriptedPeer
from thinwire.receiver.forward import queue as queue_module
from thinwire.receiver.forward.delivery import PATIENCE, DeliveryEvent, DeliveryState
from thinwire.receiver.forward.delivery_content import DeliveryContent
from thinwire.receiver.forward.forwarder import POLL_SECONDS, Forwarder, committed
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing
from thinwire.receiver.forward.queue import Queue, queue_of
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.store.damage import forget
from thinwire.receiver.store.events import StudyEvent
from thinwire.receiver.store.records import item_of
from thinwire.receiver.store.reports import Report, ReportEvent, ReportState
from thinwire.receiver.store.tables import events
from thinwire.receiver.targets import DicomTarget, FhirTarget, Target
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import HubBusy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import digest
from thinwire.shared.parked import FIRST_PAUSE

PACS = DicomTarget(kind="c-store", name="pacs", host="pacs", port=104, called="PACS")
RECORDS = FhirTarget.model_validate({"kind": "fhir", "name": "records", "url": "http://records"})


def forwarder(hub: Hub, peer: ScriptedPeer, target: Target = PACS) -> Forwarder:
    queue = queue_of(hub)
    queue.enter([target.name])
    return Forwarder(target, peer, queue, DeliveryContent(hub.study_images(), hub.bundles), hub.clock)


def drain(each: Forwarder) -> None:
    while each.work():
        pass


def states(queue: Queue) -> dict[str, str]:
    return {each.item: str(each.state) for each in queue.all()}


def instance(data: bytes) -> str:
    return str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID)


def test_files_go_as_they_came_then_report_and_capture_and_a_repeat_sends_nothing(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    files = (image_file(1, SOPInstanceUID="1.2.1"), image_file(2, SOPInstanceUID="1.2.2", ViewPosition="LL"))
    keep_study(hub, clinic, bundle, *files)
    peer = ScriptedPeer()
    drain(forwarder(hub, peer))
    assert tuple(peer.given[:2]) == files
    report, capture = (pydicom.dcmread(BytesIO(data)) for data in peer.given[2:])
    assert (report.Modality, capture.Modality) == ("SR", "OT")
    assert (
        report.CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        == "1.2.1"
    )
    assert set(states(queue_of(hub)).values()) == {"unconfirmed"}
    again = ScriptedPeer()
    drain(forwarder(hub, again))
    assert again.given == []


def test_a_study_goes_when_its_originals_come_and_its_report_when_it_is_read(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    peer = ScriptedPeer()
    each = forwarder(hub, peer)
    keep_study(hub, clinic, bundle, image_file(), read=False, originals=False)
    drain(each)
    assert peer.given == []
    keep_study(hub, clinic, bundle, image_file(), read=False)
    drain(each)
    assert peer.given == [image_file()]
    assert hub.pipeline().predict_waiting() == 1
    drain(each)
    assert len(peer.given) == 3


def test_a_draft_and_a_report_are_planned_and_what_changes_no_object_is_not(
    hub: Hub, clinic: Clinic, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = keep_study(hub, clinic, bundle)
    each, queue = forwarder(hub, ScriptedPeer()), queue_of(hub)
    drain(each)
    hub.store.request(clinic.site, study, Kind.PREVIEW)
    hub.pipeline().record_opened(clinic.site, study)
    assert next_plan(queue, PACS.name) is None
    (graph,) = hub.store.undrafted(1)
    hub.store.add_draft(graph, b"{}")
    assert next_plan(queue, PACS.name) == (clinic.site, hub.store.event_stamp(), [(clinic.site, study)])
    drain(each)
    report = Report(clinic.site, study, 1, ReportState.DRAFT, "clear", "anna", "Dr. Anna", False, hub.clock.now())
    hub.pipeline().report(report, ReportEvent.SAVED, lambda _: None)
    assert next_plan(queue, PACS.name) is None
    hub.pipeline().report(replace(report, version=2), ReportEvent.RELEASED, lambda _: None)
    assert next_plan(queue, PACS.name) == (clinic.site, hub.store.event_stamp(), [(clinic.site, study)])
    drain(each)
    # A full page of events that change no object is read once.
    monkeypatch.setattr(queue_module, "PAGE", 1)
    hub.store.request(clinic.site, study, Kind.CROPS)
    assert next_plan(queue, PACS.name) == (clinic.site, hub.store.event_stamp(), [])
    drain(each)
    assert next_plan(queue, PACS.name) is None


def test_a_study_is_forwarded_once_the_target_has_every_object(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    study = keep_study(hub, clinic, bundle)
    each = forwarder(hub, ScriptedPeer([DeliveryEvent.SENT, DeliveryEvent.SENT_AND_ASKED, DeliveryEvent.TURNED_DOWN]))
    drain(each)

    def forwarded() -> int:
        query = select(func.count()).where(events.c.study == study, events.c.event == str(StudyEvent.FORWARDED))
        with hub.database.read() as connection:
            return connection.scalar(query) or 0

    queue = queue_of(hub)
    assert (states(queue), forwarded()) == ({"file 0": "unconfirmed", "sr": "asked", "capture": "refused"}, 0)
    (asked,) = queue.all([DeliveryState.ASKED])
    queue.apply(asked.number, DeliveryEvent.COMMITTED)
    assert forwarded() == 0
    queue.retry()
    drain(each)
    assert forwarded() == 1
    for delivery in queue.all():
        queue.apply(delivery.number, DeliveryEvent.COMMITTED)
    assert forwarded() == 1, "a later confirmation is not another arrival"


def test_a_study_that_is_read_anew_gets_a_new_report_and_the_old_one_is_not_sent_any_more(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    study = keep_study(hub, clinic, bundle)
    peer = ScriptedPeer([DeliveryEvent.FAILED] * 3)
    each = forwarder(hub, peer)
    drain(each)
    clock.advance(1)
    assert hub.store.escalate(clinic.site, study)
    assert hub.pipeline().predict_waiting() == 1
    clock.advance(60)
    drain(each)
    assert states(queue_of(hub)) == {"file 0": "unconfirmed", "sr": "unconfirmed", "capture": "unconfirmed"}
    assert [str(each.state) for each in queue_of(hub).all()].count("overtaken") == 2
    assert len(peer.given) == 6
    assert instance(peer.given[1]) != instance(peer.given[4])


def test_what_fails_is_tried_again_when_it_is_due(hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock) -> None:
    keep_study(hub, clinic, bundle, read=False)
    peer = ScriptedPeer([DeliveryEvent.FAILED])
    each = forwarder(hub, peer)
    drain(each)
    (waits,) = queue_of(hub).all()
    assert (waits.state, waits.attempts, waits.reason) == (DeliveryState.WAITING, 1, "scripted: failed")
    drain(each)
    assert len(peer.given) == 1
    clock.advance(11)
    drain(each)
    assert states(queue_of(hub)) == {"file 0": "unconfirmed"}


def test_what_was_refused_waits_for_a_person(hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock) -> None:
    study = keep_study(hub, clinic, bundle, read=False)
    peer = ScriptedPeer([DeliveryEvent.TURNED_DOWN])
    each = forwarder(hub, peer)
    drain(each)
    clock.advance(100_000)
    drain(each)
    assert states(queue_of(hub)) == {"file 0": "refused"}
    assert queue_of(hub).retry("elsewhere") == 0
    assert queue_of(hub).retry("pacs", (clinic.site, study)) == 1
    drain(each)
    assert states(queue_of(hub)) == {"file 0": "unconfirmed"}


def test_a_peer_that_commits_confirms_and_one_that_does_not_gets_it_again(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    keep_study(hub, clinic, bundle, image_file(SOPInstanceUID="1.2.1"), read=False)
    peer = ScriptedPeer([DeliveryEvent.SENT_AND_ASKED] * 2)
    each, take = forwarder(hub, peer), committed(queue_of(hub))
    drain(each)
    assert states(queue_of(hub)) == {"file 0": "asked"}
    take("t1", frozenset(), frozenset(["1.2.1"]))
    clock.advance(60)
    drain(each)
    take("unknown", frozenset(["1.2.1"]), frozenset())
    assert states(queue_of(hub)) == {"file 0": "asked"}
    take("t2", frozenset(["1.2.1"]), frozenset())
    take("t2", frozenset(["1.2.1"]), frozenset())
    assert states(queue_of(hub)) == {"file 0": "confirmed"}
    assert len(peer.given) == 2


def test_a_peer_that_is_silent_is_asked_again(hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock) -> None:
    keep_study(hub, clinic, bundle, read=False)
    peer = ScriptedPeer([DeliveryEvent.SENT_AND_ASKED] * 9)
    each = forwarder(hub, peer)
    for _ in range(8):
        drain(each)
        clock.advance(PATIENCE.total_seconds() + 1)
    assert states(queue_of(hub)) == {"file 0": "unconfirmed"}
    assert len(peer.given) == 3


def test_two_images_with_one_uid_never_replace_each_other(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    first, second = image_file(1, SOPInstanceUID="1.2.1"), image_file(2, SOPInstanceUID="1.2.1")
    for data in (first, second):
        keep_study(hub, clinic, bundle, data, read=False)
    peer = ScriptedPeer()
    drain(forwarder(hub, peer))
    assert peer.given == [first]
    said = {each.reason for each in queue_of(hub).all([DeliveryState.REFUSED])}
    assert said == {"another object with the same SOP Instance UID and other content was sent there before"}


def test_a_picture_that_is_no_dicom_is_refused_and_the_rest_goes(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    keep_study(hub, clinic, bundle, b"\x89PNG and so on")
    peer = ScriptedPeer()
    drain(forwarder(hub, peer))
    assert peer.given == []
    assert {each.item: str(each.state) for each in queue_of(hub).all()} == {
        "file 0": "refused",
        "sr": "refused",
        "capture": "refused",
    }
    assert all(each.reason for each in queue_of(hub).all())


def test_a_damaged_archive_is_refused_with_its_reason(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    study = keep_study(hub, clinic, bundle, read=False)
    archive = hub.store.plaintext(clinic.site, study, Kind.ORIGINALS)
    assert archive is not None
    damage_blob(hub, digest(archive))
    peer = ScriptedPeer()
    drain(forwarder(hub, peer))
    (refused,) = queue_of(hub).all()
    assert (refused.state, "damaged" in refused.reason) == (DeliveryState.REFUSED, True)


def test_a_study_that_cannot_be_read_stops_no_other_and_goes_when_its_part_comes_again(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    studies = [keep_study(hub, clinic, bundle, image_file(seed), originals=False) for seed in (1, 2)]
    manifest = hub.store.plaintext(clinic.site, studies[0], Kind.MANIFEST)
    assert manifest is not None
    damage_blob(hub, digest(manifest))
    peer = ScriptedPeer()
    drain(forwarder(hub, peer, RECORDS))
    assert [each.study for each in queue_of(hub).all()] == [studies[1]]
    assert len(peer.given) == 1
    with hub.database.write() as connection:
        forget(connection, clinic.site, digest(manifest), hub.clock.now())
    again = clinic.seal(Kind.MANIFEST, studies[0], manifest)
    hub.pipeline().put(clinic.site, again.object, again.header, manifest, False)
    drain(forwarder(hub, peer, RECORDS))
    assert len(peer.given) == 2


def test_a_parked_study_whose_site_another_worker_plans_for_is_left_to_it(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    study = keep_study(hub, clinic, bundle, read=False)
    each = forwarder(hub, ScriptedPeer())
    drain(each)
    hub.store.parked.park(f"forward {PACS.name}", item_of(clinic.site, study), HubBusy("a test"))
    clock.advance(FIRST_PAUSE)
    with queue_of(hub).take_site(PACS.name, clinic.site):
        assert not each.work()
    assert each.work()
    assert not each.work()


def test_a_study_that_breaks_the_peer_is_tried_again_later_and_stops_no_other(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    class Breaking(ScriptedPeer):
        def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
            if objects[0].data == broken:
                raise IndexError("as of a library")
            yield from super().send(objects)

    broken, sound = image_file(1, SOPInstanceUID="1.2.1"), image_file(2, SOPInstanceUID="1.2.2")
    for each in (broken, sound):
        keep_study(hub, clinic, bundle, each, read=False)
    peer = Breaking()
    drain(forwarder(hub, peer))
    assert peer.given == [sound]
    first, _ = queue_of(hub).all()
    assert (first.state, first.attempts) == (DeliveryState.WAITING, 1)
    assert first.reason.startswith("unexpected error (IndexError, test_forwarder.py:")
    clock.advance(3600)
    mended = ScriptedPeer()
    drain(forwarder(hub, mended))
    assert mended.given == [broken]


def test_a_target_begins_with_the_studies_that_it_asks_for(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    keep_study(hub, clinic, bundle, read=False)
    peer = ScriptedPeer()
    drain(forwarder(hub, peer, PACS.model_copy(update={"since": START + timedelta(days=1)})))
    assert peer.given == []
    drain(forwarder(hub, peer, PACS.model_copy(update={"name": "other", "since": START})))
    assert len(peer.given) == 1


def test_fhir_goes_with_reading_and_manifest_and_again_when_the_originals_come(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    peer = ScriptedPeer([DeliveryEvent.FOUND_AT_TARGET] * 2)
    each = forwarder(hub, peer, RECORDS)
    keep_study(hub, clinic, bundle, read=True, originals=False)
    drain(each)
    assert len(peer.given) == 1
    assert b'"registered"' in peer.given[0]
    keep_study(hub, clinic, bundle, read=False)
    drain(each)
    assert len(peer.given) == 2
    assert b'"available"' in peer.given[1]


def test_news_of_another_process_and_a_retry_wake_it(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    """Long before it looks by itself."""
    peer, soon = ScriptedPeer([DeliveryEvent.TURNED_DOWN]), POLL_SECONDS / 2
    each = forwarder(hub, peer)
    thread = threading.Thread(target=each.run)
    with hub.news.running(), open_hub(hub.data, hub.clock) as other:
        unsubscribe = hub.news.subscribe(each.heard)
        thread.start()
        keep_study(other, clinic, bundle, read=False)
        until(lambda: states(queue_of(other)) == {"file 0": "refused"}, soon)
        queue_of(other).retry()
        until(lambda: states(queue_of(other)) == {"file 0": "unconfirmed"}, soon)
        unsubscribe()
        each.stop()
        thread.join(60)
    assert len(peer.given) == 2

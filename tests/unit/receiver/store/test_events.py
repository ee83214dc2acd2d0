"""Events of studies: each change adds one, in the transaction that makes it; receipts have their numbers."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import select

from tests.support.hub_folder import Clinic, StudyParts
from thinwire.receiver.hub import Hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.store.records import PendingGraph
from thinwire.receiver.store.reports import Report, ReportEvent, ReportState
from thinwire.receiver.store.tables import events, receipts
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import ReportMoved
from thinwire.shared.formats.receipts import read_receipt
from thinwire.shared.identifiers import Digest, digest


@pytest.fixture
def pipeline(hub: Hub) -> HubPipeline:
    return hub.pipeline()


def words(hub: Hub) -> list[str]:
    with hub.database.read() as connection:
        return list(connection.scalars(select(events.c.event).order_by(events.c.number)))


def put(pipeline: HubPipeline, clinic: Clinic, parts: StudyParts, urgent: bool = False) -> None:
    for part in (parts.graph, parts.originals):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, urgent)


def write(hub: Hub, pipeline: HubPipeline, clinic: Clinic, parts: StudyParts, event: ReportEvent, version: int) -> None:
    report = Report(
        clinic.site, parts.study, version, ReportState.DRAFT, "clear", "anna", "Dr. Anna", False, hub.clock.now()
    )
    pipeline.report(report, event, lambda _: None)


def test_every_change_of_a_study_is_an_event(
    hub: Hub, pipeline: HubPipeline, clinic: Clinic, parts: StudyParts
) -> None:
    site, study = clinic.site, parts.study
    waiting = PendingGraph(site, study, Digest(digest(parts.graph.plaintext)), True)
    acts: dict[str, Callable[[], object]] = {
        "stored": lambda: put(pipeline, clinic, parts),
        "escalated": lambda: pipeline.escalate(site, study),
        "predicted": pipeline.predict_waiting,
        "requested": lambda: hub.store.request(site, study, Kind.PREVIEW),
        "drafted": lambda: hub.store.add_draft(waiting, json.dumps({}).encode()),
        "opened": lambda: pipeline.record_opened(site, study),
    }
    told: list[str] = []
    for word, act in acts.items():
        act()
        told += [word] * (2 if word == "stored" else 1)
        assert words(hub) == told
        act()
        assert words(hub) == told, f"{word}: a repeat is no event"
        assert hub.store.event_stamp() == len(told)
    for version, (event, word) in enumerate(
        ((ReportEvent.SAVED, "saved"), (ReportEvent.RELEASED, "released"), (ReportEvent.SIGNED, "reported")), 1
    ):
        write(hub, pipeline, clinic, parts, event, version)
        told.append(word)
        assert words(hub) == told
    assert hub.store.study(site, study).opened


def test_receipts_have_the_numbers_of_their_events_and_the_hubs_signature(
    hub: Hub, pipeline: HubPipeline, clinic: Clinic, parts: StudyParts
) -> None:
    put(pipeline, clinic, parts)
    hub.store.request(clinic.site, parts.study, Kind.PREVIEW)
    pipeline.predict_waiting()
    with hub.database.read() as connection:
        rows = connection.execute(select(receipts.c.number, receipts.c.signed).order_by(receipts.c.number)).all()
    key = hub.keys.signing.public_key()
    assert [(number, str(read_receipt(signed, key).status)) for number, signed in rows] == [
        (1, "stored"),
        (2, "stored"),
        (4, "triaged"),
    ]


def test_a_part_that_makes_a_known_study_urgent_tells_both(
    hub: Hub, pipeline: HubPipeline, clinic: Clinic, parts: StudyParts
) -> None:
    pipeline.put(clinic.site, parts.graph.object, parts.graph.header, parts.graph.plaintext, False)
    put(pipeline, clinic, parts, urgent=True)
    assert words(hub) == ["stored", "escalated", "stored"]


def test_an_act_that_fails_adds_no_event(hub: Hub, pipeline: HubPipeline, clinic: Clinic, parts: StudyParts) -> None:
    put(pipeline, clinic, parts)
    with pytest.raises(ReportMoved):
        write(hub, pipeline, clinic, parts, ReportEvent.SIGNED, version=7)

    class Refused(Exception):
        pass

    def refuse(_: object) -> None:
        raise Refused

    report = Report(clinic.site, parts.study, 1, ReportState.DRAFT, "clear", "a", "A", False, hub.clock.now())
    with pytest.raises(Refused):
        pipeline.report(report, ReportEvent.SIGNED, refuse)
    assert words(hub) == ["stored", "stored"]
    assert len(pipeline.undelivered_receipts(clinic.site)) == 2


def test_the_first_receipt_counts(
    hub: Hub, pipeline: HubPipeline, clinic: Clinic, parts: StudyParts, clock: Clock
) -> None:
    part = parts.graph
    first = pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    clock.advance(60)  # type: ignore[attr-defined]
    assert pipeline.put(clinic.site, part.object, part.header, part.plaintext, True) == first
    assert pipeline.undelivered_receipts(clinic.site) == [first]
    assert not hub.store.study(clinic.site, parts.study).urgent_asked

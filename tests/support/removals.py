"""A hub with studies that are read, forwarded and removed."""

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import AnyHttpUrl
from sqlalchemy import func, select

from tests.support.hub_folder import Clinic, Sealed, StudyParts
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.config import RetentionRule, RetentionSettings
from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.check import Checked, Finding, check
from thinwire.receiver.operations.retention import Retention
from thinwire.receiver.store.claims import Work
from thinwire.receiver.store.reports import Report, ReportEvent, ReportState
from thinwire.receiver.store.tables import TABLES, events
from thinwire.receiver.targets import FhirTarget, ForwardSettings
from thinwire.shared.identifiers import SiteName, StudyKey, digest

TARGET = FhirTarget(name="records", kind="fhir", url=AnyHttpUrl("https://records.example.org/fhir"))
TEXT = "a report that is long enough to be found in a file"


def with_settings(hub: Hub, *rules: RetentionRule, target: bool = False, **more: Any) -> Hub:
    retention = RetentionSettings(rules=rules, **more)
    forward = ForwardSettings(targets=(TARGET,) if target else ())
    object.__setattr__(hub, "settings", hub.settings.model_copy(update={"retention": retention, "forward": forward}))
    return hub


def arrives(hub: Hub, clinic: Clinic, parts: StudyParts, *more: Sealed) -> None:
    pipeline = hub.pipeline()
    for part in (parts.graph, parts.originals, parts.manifest, *more):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    pipeline.predict_waiting()


def signed(hub: Hub, site: SiteName, study: StudyKey) -> None:
    hub.pipeline().record_opened(site, study)
    for version, event in enumerate((ReportEvent.SAVED, ReportEvent.SIGNED), start=1):
        report = Report(site, study, version, ReportState.DRAFT, TEXT, "anna", "Dr. Anna", False, hub.clock.now())
        message = Message(Act.REPORT_SIGNED, hub.clock.now(), "anna", "", site, study)
        hub.pipeline().report(report, event, partial(hub.audit.append, message=message))


def forwarded(hub: Hub, site: SiteName, study: StudyKey) -> None:
    queue = queue_of(hub)
    queue.enter([TARGET.name])
    with hub.database.read() as connection:
        last = connection.scalars(select(events.c.number)).all()[-1]
    queue.plan(TARGET.name, (site, last), [((site, study), [("fhir", digest(study))])])
    for each in queue.due(TARGET.name, Work(site, study)):
        queue.apply(each.number, DeliveryEvent.SENT, instance="2.25.7")


def listed(hub: Hub) -> set[StudyKey]:
    return {each.study for each in hub.store.studies()}


def blobs(data: Path) -> set[str]:
    return {path.name for path in (data / "blobs").rglob("*") if path.is_file()}


def ask(hub: Hub, *studies: tuple[SiteName, StudyKey], days: int = 0, unread: bool = True) -> None:
    message = Message(Act.RETENTION_MARKED, hub.clock.now(), "os:root")
    Retention(hub).ask(studies, days, unread, partial(hub.audit.append, message=message))


def rows_of(hub: Hub, study: StudyKey) -> dict[str, int]:
    """The number of rows that name a study, by table."""
    tables = [table for table in TABLES.sorted_tables if "study" in table.c]
    with hub.database.read() as connection:
        counts = {
            each.name: connection.scalar(select(func.count()).select_from(each).where(each.c.study == study)) or 0
            for each in tables
        }
    return {name: count for name, count in counts.items() if count}


OLD = RetentionRule(name="old", days=30)
OLD_LOCAL = RetentionRule(name="old", days=30, forwarded=False)


def found(hub: Hub) -> list[Finding]:
    """The findings of `check`."""
    return list(check(hub, Checked(), lambda *_: None))

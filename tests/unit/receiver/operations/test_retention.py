"""Retention: a rule takes what is old, read and forwarded, and nothing else; an erased study leaves its tombstone
alone, also after a power cut at any step, and does not come back."""

import contextlib
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import AnyHttpUrl
from sqlalchemy import select
from typer.testing import CliRunner

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, Sealed, StudyParts, join, study_parts
from tests.support.power import Cutoff, LossyDisk, PowerCut
from tests.unit.receiver.operations.test_check import found
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.cli.main import app
from thinwire.receiver.config import RetentionRule, RetentionSettings
from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.operations.backup import back_up
from thinwire.receiver.operations.retention import Retention
from thinwire.receiver.store.erasure import _STAYS
from thinwire.receiver.store.reports import Report, ReportEvent, ReportState
from thinwire.receiver.store.tables import TABLES, events, removed_blobs, tombstones
from thinwire.receiver.targets import FhirTarget, ForwardSettings
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, BadPayload, HubBusy, StudyErased, UnknownStudy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import SiteName, StudyKey, digest
from thinwire.shared.storage.durable import Disk

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
    for each in queue.due(TARGET.name):
        queue.apply(each.number, DeliveryEvent.SENT, instance="2.25.7")


def listed(hub: Hub) -> set[StudyKey]:
    return {each.study for each in hub.store.studies()}


def blobs(data: Path) -> set[str]:
    return {path.name for path in (data / "blobs").rglob("*") if path.is_file()}


def ask(hub: Hub, *studies: tuple[SiteName, StudyKey], days: int = 0, unread: bool = True) -> None:
    message = Message(Act.RETENTION_MARKED, hub.clock.now(), "os:root")
    Retention(hub).ask(studies, days, unread, partial(hub.audit.append, message=message))


def rows_of(data: Path, study: StudyKey) -> dict[str, int]:
    """The number of rows that name a study, by table."""
    with closing(sqlite3.connect(data / "thinwire.db")) as database:
        tables = [table for table in TABLES.sorted_tables if "study" in table.c]
        query = "SELECT count(*) FROM {} WHERE study = ?"
        counts = {each.name: database.execute(query.format(each.name), (study,)).fetchone()[0] for each in tables}
    return {name: count for name, count in counts.items() if count}


OLD = RetentionRule(name="old", days=30)
OLD_LOCAL = RetentionRule(name="old", days=30, forwarded=False)


@pytest.mark.parametrize(
    ("rule", "read", "sent", "taken"),
    [
        (OLD, True, True, True),
        (OLD, True, False, False),
        (OLD, False, True, False),
        (OLD_LOCAL, True, False, True),
        (OLD_LOCAL, False, False, False),
        (RetentionRule(name="old", days=30, read=False, forwarded=False), False, False, True),
        (
            RetentionRule(name="old", days=30, read=False, forwarded=False, sites=(SiteName("ridge"),)),
            True,
            True,
            False,
        ),
        (RetentionRule(name="old", days=32, read=False, forwarded=False), True, True, False),
    ],
)
def test_a_rule_takes_what_it_names_and_nothing_else(
    hub: Hub,
    clinic: Clinic,
    parts: StudyParts,
    clock: FakeClock,
    rule: RetentionRule,
    read: bool,
    sent: bool,
    taken: bool,
) -> None:
    with_settings(hub, rule, target=sent or rule.forwarded)
    arrives(hub, clinic, parts)
    if read:
        signed(hub, clinic.site, parts.study)
    if sent:
        forwarded(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    retention = Retention(hub)
    assert bool(retention.expected(rule)) is taken
    assert retention.run().marked.total() == int(taken)
    assert (retention.run().removed, listed(hub)) == (0, {parts.study}), "the waiting time goes on"
    clock.advance(timedelta(days=14).total_seconds())
    assert retention.run().removed == int(taken)
    assert listed(hub) == (set() if taken else {parts.study})
    assert found(hub) == []


def test_without_a_target_nothing_counts_as_forwarded(
    hub: Hub, clinic: Clinic, parts: StudyParts, clock: FakeClock
) -> None:
    with_settings(hub, OLD)
    arrives(hub, clinic, parts)
    signed(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    assert Retention(hub).run().marked.total() == 0


def test_what_is_planned_anew_for_a_target_is_not_forwarded(
    hub: Hub, clinic: Clinic, parts: StudyParts, clock: FakeClock
) -> None:
    """The report was signed after the last planning."""
    with_settings(hub, OLD, target=True)
    arrives(hub, clinic, parts)
    forwarded(hub, clinic.site, parts.study)
    signed(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    assert Retention(hub).run().marked.total() == 0


def test_a_mark_falls_with_its_rule_and_a_hold_keeps_the_study(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    first, second = (study_parts(clinic, bundle, seed) for seed in range(2))
    with_settings(hub, OLD_LOCAL)
    for each in (first, second):
        arrives(hub, clinic, each)
        signed(hub, clinic.site, each.study)
    clock.advance(timedelta(days=31).total_seconds())
    retention = Retention(hub)
    assert retention.run().marked == {"old": 2}
    held = partial(hub.audit.append, message=Message(Act.HELD, clock.now(), "os:root"))
    assert retention.hold(clinic.site, first.study, "case 12", held)
    assert not retention.hold(clinic.site, first.study, "case 12", held)
    with pytest.raises(BadInput, match="legal hold"):
        ask(hub, (clinic.site, first.study))
    clock.advance(timedelta(days=14).total_seconds())
    with_settings(hub)
    assert retention.run().unmarked == 1
    with_settings(hub, OLD_LOCAL, waiting_days=0)
    assert retention.run().removed == 1
    assert listed(hub) == {first.study}
    assert retention.release(clinic.site, first.study, held)
    assert retention.run().removed == 1


@pytest.mark.parametrize("keep", [True, False])
def test_an_erased_study_leaves_its_tombstone_alone(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle, keep: bool
) -> None:
    with_settings(hub, target=True, signed_reports="keep" if keep else "remove")
    arrives(hub, clinic, parts)
    other = study_parts(clinic, bundle, 1)
    arrives(hub, clinic, other)
    before = blobs(hub.data)
    signed(hub, clinic.site, parts.study)
    forwarded(hub, clinic.site, parts.study)
    hub.store.request(clinic.site, parts.study, Kind.PREVIEW)
    ask(hub, (clinic.site, parts.study), unread=False)
    assert hub.store.study(clinic.site, parts.study).complete
    done = Retention(hub).run()
    assert (done.removed, done.blobs) == (1, 3)

    assert len(before - blobs(hub.data)) == 3
    stays = {"studies": 1, "tombstones": 1, "events": 1 + keep, "deliveries": 1}
    assert rows_of(hub.data, parts.study) == stays | ({"reports": 1, "receipts": 1} if keep else {})
    assert found(hub) == []
    content = b"".join(path.read_bytes() for path in hub.data.glob("thinwire.db*"))
    assert (TEXT.encode() in content) is keep, "not even in the free pages of the file"
    assert b"2.25.7" not in content
    assert listed(hub) == {other.study}
    with pytest.raises(StudyErased, match="at a person's request"):
        hub.store.find(parts.study.hex()[:8])


def test_every_table_that_names_a_study_is_cleaned_or_has_a_rule() -> None:
    """A new table with a study needs no thought, and one that stays is a decision."""
    assert set(TABLES.tables) >= _STAYS
    assert {"studies", "tombstones", "events", "receipts", "reports", "deliveries"} == _STAYS
    named = [table for table in TABLES.sorted_tables if "study" in table.c]
    assert [table.name for table in named if "site" not in table.c] == []


def test_a_blob_of_two_studies_stays_and_is_named_again(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    files = (b"the same files", b"of two clinics")
    ridge = join(hub, "ridge")
    here, there = study_parts(clinic, bundle, files=files), study_parts(ridge, bundle, files=files)
    arrives(hub, clinic, here)
    arrives(hub, ridge, there)
    ask(hub, (clinic.site, here.study))
    Retention(hub).run()
    assert found(hub) == []
    assert hub.store.plaintext(ridge.site, there.study, Kind.ORIGINALS) == there.originals.plaintext
    ask(hub, (ridge.site, there.study))
    Retention(hub).run()
    assert hub.store.plaintext(ridge.site, there.study, Kind.ORIGINALS) is None

    third = join(hub, "delta")
    again = study_parts(third, bundle, files=files)
    with pytest.raises(HubBusy):
        arrives(hub, third, again)
    clock.advance(301)
    arrives(hub, third, again)
    Retention(hub).run()
    assert found(hub) == []


def test_a_blob_that_waits_for_its_removal_is_saved_by_an_object_that_names_it(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    files = (b"the same files", b"of two clinics")
    here, ridge = study_parts(clinic, bundle, files=files), join(hub, "ridge")
    arrives(hub, clinic, here)
    ask(hub, (clinic.site, here.study))
    Retention(hub).run(stopped=iter([False, True]).__next__)
    with hub.database.read() as connection:
        assert set(connection.scalars(select(removed_blobs.c.state))) == {"waiting"}
    arrives(hub, ridge, study_parts(ridge, bundle, files=files))
    Retention(hub).run()
    assert found(hub) == []
    assert digest(here.originals.plaintext).hex() in blobs(hub.data)


def test_an_erased_study_is_refused_for_good(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    arrives(hub, clinic, parts)
    ask(hub, (clinic.site, parts.study))
    Retention(hub).run()
    pipeline, part = hub.pipeline(), parts.originals
    with pytest.raises(StudyErased):
        pipeline.check_wanted(clinic.site, parts.study)
    with pytest.raises(StudyErased):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, True)
    with pytest.raises(StudyErased):
        pipeline.record_opened(clinic.site, parts.study)
    with pytest.raises(StudyErased):
        signed(hub, clinic.site, parts.study)
    with pytest.raises(StudyErased):
        hub.store.request(clinic.site, parts.study, Kind.PREVIEW)
    assert pipeline.escalate(clinic.site, parts.study) is False
    assert listed(hub) == set()


def test_what_is_predicted_meanwhile_has_no_effect(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline, graph = hub.pipeline(), parts.graph
    pipeline.put(clinic.site, graph.object, graph.header, graph.plaintext, False)
    waiting = hub.store.untriaged()
    ask(hub, (clinic.site, parts.study))
    Retention(hub).run()
    hub.store.add_draft(waiting[0], b"{}")
    pipeline.predict_waiting()
    assert rows_of(hub.data, parts.study) == {"studies": 1, "tombstones": 1, "events": 1}


def test_parts_in_transfer_and_refused_ones_go_too(hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle) -> None:
    arrives(hub, clinic, parts)
    other = study_parts(clinic, bundle, 1)
    for each, part in ((parts, parts.originals), (other, other.originals)):
        folder = hub.data / "inbox" / clinic.site
        folder.mkdir(parents=True, exist_ok=True)
        (folder / part.object.hex()).write_bytes(part.sealed[:-1])
        refused = clinic.seal(Kind.GRAPH, each.study, b"no graph" + each.study)
        with pytest.raises(BadPayload):
            hub.pipeline().put(clinic.site, refused.object, refused.header, refused.plaintext, False)
    ask(hub, (clinic.site, parts.study))
    Retention(hub).run()
    assert [path.name for path in (hub.data / "inbox").rglob("?" * 64)] == [other.originals.object.hex()]
    left = {path.suffix for path in (hub.data / "quarantine" / clinic.site).iterdir()}
    assert left == {".json", ".bin"}
    assert len(list((hub.data / "quarantine" / clinic.site).iterdir())) == 2


def test_the_power_may_fail_at_every_step(data: Path, tmp_path: Path, bundle: Bundle, clock: FakeClock) -> None:
    with open_hub(data, clock) as hub:
        clinic = join(hub)
        parts, other = (study_parts(clinic, bundle, seed) for seed in range(2))
        for each in (parts, other):
            arrives(hub, clinic, each)
        ask(hub, (clinic.site, parts.study))
    steps, whole = 1, False
    while not whole:
        steps += 1
        copy = shutil.copytree(data, tmp_path / f"after-{steps}")
        with contextlib.suppress(PowerCut), open_hub(copy, clock, LossyDisk(Cutoff(steps))) as hub:
            Retention(hub).run()
            whole = True
        with open_hub(copy, clock) as hub:
            assert found(hub) == []
            Retention(hub).run()
            assert (found(hub), listed(hub)) == ([], {other.study})
            with hub.database.read() as connection:
                assert len(connection.scalars(select(tombstones.c.study)).all()) == 1
                assert set(connection.scalars(select(removed_blobs.c.state))) == {"gone"}
        assert blobs(copy).isdisjoint(digest(each.plaintext).hex() for each in (parts.graph, parts.originals))
    assert steps > 8


def test_a_restored_backup_brings_no_erased_study_back(
    data: Path, tmp_path: Path, bundle: Bundle, clock: FakeClock
) -> None:
    nothing = lambda *_: None  # noqa: E731
    with open_hub(data, clock) as hub:
        clinic = join(hub)
        parts, late = (study_parts(clinic, bundle, seed) for seed in range(2))
        arrives(hub, clinic, parts)
        back_up(hub.database, data, tmp_path / "backup", Disk(), clock, nothing, nothing)
        arrives(hub, clinic, late)
        ask(hub, (clinic.site, parts.study), (clinic.site, late.study))
        Retention(hub).run()
    assert CliRunner().invoke(app, ["restore", str(tmp_path / "backup"), "--data", str(data)]).exit_code == 0
    with open_hub(data, clock) as hub:
        assert listed(hub) == set()
        for each in (parts, late):
            with pytest.raises(StudyErased):
                hub.store.check_wanted(clinic.site, each.study)
        assert digest(parts.originals.plaintext).hex() not in blobs(data)
        assert found(hub) == []
        # The next backup loses the parts as well.
        assert digest(parts.originals.plaintext).hex() in blobs(tmp_path / "backup")
        back_up(hub.database, data, tmp_path / "backup", Disk(), clock, nothing, nothing)
        assert blobs(tmp_path / "backup") == blobs(data)


def test_a_patient_is_erased_from_the_command_line(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    first, second = (study_parts(clinic, bundle, seed) for seed in range(2))
    other = study_parts(clinic, bundle, 2, identity={"PatientID": "PHANTOM-2"})
    for each in (first, second, other):
        arrives(hub, clinic, each)

    def run(*words: str, given: str = "", error: type[Exception] | None = None) -> str:
        done = CliRunner().invoke(app, ["retention", *words, "--data", str(hub.data)], input=given)
        assert type(done.exception) is (error or type(None)), done.output
        return done.output

    patient = ("erase", "--patient", "--site", clinic.site, "--reason", "request 7")
    run(*patient, "--days", "0", given="PHANTOM-1\n", error=BadInput)
    run(*patient, given="PHANTOM-9\n", error=UnknownStudy)
    run(*patient, "--also-unread", given=" PHANTOM-1\n")
    assert first.study.hex() in run("plan")
    run("undo", first.study.hex()[:8])
    run("undo", first.study.hex()[:8], error=BadInput)
    run(*patient, "--also-unread", "--days", "0", given="PHANTOM-1\n")
    assert "2 removed with 6 parts" in run("run")
    assert listed(hub) == {other.study}
    log = "".join(entry.message for entry in hub.audit.entries())
    assert log.count("DICOM Study Deleted") == 2
    assert "PHANTOM" not in log

"""`check`: each kind of damage is found and named, a damaged part is requested again and comes back whole."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, StudyParts, join, study_parts
from tests.support.power import Fuse, LossyDisk, PowerCut
from tests.support.tier_samples import sample_crops
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.operations import check as check_module
from thinwire.receiver.operations.check import Checked, Finding, Subject, check, repair
from thinwire.receiver.store.reports import Report, ReportEvent, ReportState
from thinwire.receiver.store.worklist_order import ListState, Selection
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadFormat, NotEnrolled
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import Digest, SiteName, Tier, digest
from thinwire.shared.storage import blobs as blobs_module
from thinwire.shared.storage.durable import Disk


@pytest.fixture
def kept(hub: Hub, clinic: Clinic, parts: StudyParts) -> StudyParts:
    """A study with all that a hub writes of one."""
    pipeline = hub.pipeline()
    for part in (parts.graph, parts.originals, parts.manifest):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    pipeline.predict_waiting()
    pipeline.record_opened(clinic.site, parts.study)
    hub.store.request(clinic.site, parts.study, Kind.PREVIEW)
    for version, event in enumerate((ReportEvent.SAVED, ReportEvent.SIGNED), start=1):
        report = Report(
            clinic.site, parts.study, version, ReportState.DRAFT, "clear", "anna", "Dr. Anna", False, hub.clock.now()
        )
        message = Message(Act.REPORT_SIGNED, hub.clock.now(), "anna", "", clinic.site, parts.study)
        pipeline.report(report, event, partial(hub.audit.append, message=message))
    return parts


def found(hub: Hub) -> list[Finding]:
    return list(check(hub, Checked(), lambda *_: None))


def blob(data: Path, plaintext: bytes) -> Path:
    name = digest(plaintext).hex()
    return data / "blobs" / name[:2] / name


def damage(path: Path) -> None:
    path.write_bytes(b"?" + path.read_bytes()[1:])


def sql(data: Path, statement: str) -> None:
    """Change rows as a damaged disk or a stranger's hand does: without triggers and references."""
    with closing(sqlite3.connect(data / "thinwire.db", isolation_level=None)) as database:
        for table in ("audit", "reports"):
            for act in ("update", "delete"):
                database.execute(f"DROP TRIGGER {table}_no_{act}")
        database.execute(statement)


@pytest.mark.parametrize("page", [1, 500])
def test_a_sound_hub_has_no_finding(hub: Hub, kept: StudyParts, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(check_module, "PAGE", page)
    checked, told = Checked(), list[tuple[str, int, int]]()
    assert list(check(hub, checked, lambda *each: told.append(each))) == []
    assert checked == Checked(parts=3, receipts=6, reports=2, audit_messages=2)
    assert {("parts", 3, 3), ("receipts", 6, 6), ("reports", 2, 2)} <= set(told)


@pytest.mark.parametrize(
    ("statement", "subject", "words"),
    [
        ("UPDATE objects SET plain_size = 7 WHERE kind = 0", Subject.PART, "graph: the row states 7 bytes"),
        ("UPDATE objects SET receipt = 1 WHERE kind = 3", Subject.PART, "originals: it has no receipt of its own"),
        ("UPDATE objects SET receipt = 4 WHERE kind = 3", Subject.PART, "originals: it has no receipt of its own"),
        ("UPDATE files SET digest = zeroblob(32) WHERE place = 1", Subject.FILES, "do not give the study key"),
        ("DELETE FROM files WHERE place = 1", Subject.FILES, "do not give the study key"),
        ("UPDATE receipts SET signed = zeroblob(200) WHERE number = 4", Subject.RECEIPT, "receipt 4: "),
        ("UPDATE receipts SET signed = 'words' || x'ff' WHERE number = 4", Subject.DATABASE, "a table cannot be read"),
        ("UPDATE receipts SET status = 'opened' WHERE number = 4", Subject.RECEIPT, "receipt 4 states something else"),
        ("UPDATE receipts SET digest = zeroblob(32) WHERE number = 2", Subject.RECEIPT, "receipt 2 states something"),
        ("DELETE FROM events WHERE number = 5", Subject.RECEIPT, "receipt 5 has no event of its own"),
        ("UPDATE events SET event = 'opened' WHERE number = 4", Subject.RECEIPT, "receipt 4 has no event of its own"),
        ("DELETE FROM receipts WHERE number = 5", Subject.EVENT, "event 5 has no receipt"),
        ("UPDATE reports SET text = 'effusion' WHERE version = 2", Subject.REPORT, "not that of its receipt"),
        ("DELETE FROM reports WHERE version = 1", Subject.REPORT, "version 1 of the report is missing"),
        ("UPDATE audit SET message = 'x' WHERE number = 2", Subject.AUDIT, "broken at message 2"),
        ("DELETE FROM sites", Subject.DATABASE, "a row of studies refers to none of sites"),
    ],
)
def test_a_row_that_does_not_hold_is_found(
    hub: Hub, kept: StudyParts, statement: str, subject: Subject, words: str
) -> None:
    sql(hub.data, statement)
    findings = [each for each in found(hub) if each.subject is subject]
    assert any(words in each.problem for each in findings), findings
    assert all(each.remedy for each in findings)
    if subject not in (Subject.AUDIT, Subject.DATABASE):
        assert {each.study for each in findings} == {kept.study}
    assert repair(hub, findings) == 0, "only parts can be requested again"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM worklist", "is missing"),
        ("UPDATE worklist SET place = 5 - place", "its row differs"),
        ("UPDATE worklist SET done = 0, state = 1, report = NULL", "its row differs"),
        ("DELETE FROM worklist_counts", "the counts differ"),
        ("DELETE FROM worklist_vocabulary WHERE word = 'signed'", "the words of the search differ"),
        ("INSERT INTO worklist_words (worklist_words) VALUES ('delete-all')", "the words of the search differ"),
        ("UPDATE worklist_counts SET studies = studies + 1", "the counts differ"),
    ],
)
def test_a_worklist_that_is_not_that_of_the_studies_is_made_anew(
    hub: Hub, clinic: Clinic, kept: StudyParts, statement: str, words: str
) -> None:
    before = hub.worklist.search("signed", hub.clock.now(), 9)
    assert len(before.entries) == 1
    sql(hub.data, statement)
    findings = found(hub)
    assert {each.subject for each in findings} == {Subject.WORKLIST}
    assert any(words in each.problem for each in findings)
    assert all(each.repairable and "--repair" in each.remedy for each in findings)
    assert repair(hub, findings) == 0
    assert found(hub) == []
    assert hub.worklist.search("signed", hub.clock.now(), 9) == before
    assert hub.worklist.page(Selection(ListState.READ), hub.clock.now(), 9).entries == before.entries


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (damage, "damaged on the disk"),
        (Path.unlink, "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "damaged on the disk"),
    ],
)
def test_a_damaged_part_is_requested_and_comes_back_whole(
    hub: Hub, clinic: Clinic, kept: StudyParts, act: Callable[[Path], object], words: str
) -> None:
    part, path = kept.originals, blob(hub.data, kept.originals.plaintext)
    act(path)
    (finding,) = found(hub)
    assert (finding.subject, finding.problem) == (Subject.PART, f"originals: the blob is {words}")
    assert (finding.site, finding.study, finding.blob) == (clinic.site, kept.study, path_name(path))
    assert "--repair" in finding.remedy
    before, first = hub.store.event_stamp(), hub.store.stored_receipt(clinic.site, part.object)
    assert repair(hub, [finding]) == 1

    assert not path.exists()
    assert (hub.data / "quarantine" / "_damaged" / path.parent.name / path.name).exists() is (words != "missing")
    study = hub.store.study(clinic.site, kept.study)
    assert Tier.ORIGINALS not in study.sealed_sizes
    assert study.requested == {Tier.PREVIEW, Tier.ORIGINALS}
    assert study.complete is False
    assert hub.store.file_digests(clinic.site, kept.study) == []
    assert (kept.study, Kind.ORIGINALS) in hub.store.requested_parts(clinic.site)
    assert hub.store.event_stamp() == before + 1
    assert hub.store.stored_receipt(clinic.site, part.object) is None
    assert found(hub) == []

    hub.clock.advance(60)  # type: ignore[attr-defined]
    again = hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    assert again != first
    assert path.read_bytes() == part.plaintext
    assert hub.store.study(clinic.site, kept.study).complete is True
    assert len(hub.store.file_digests(clinic.site, kept.study)) == 2
    assert hub.store.requested_parts(clinic.site) == [(kept.study, Kind.PREVIEW)]
    assert found(hub) == []


def path_name(path: Path) -> Digest:
    return Digest(bytes.fromhex(path.name))


def test_a_graph_and_a_manifest_are_requested_too_and_the_prediction_counts_again(
    hub: Hub, clinic: Clinic, kept: StudyParts
) -> None:
    prediction = hub.store.study(clinic.site, kept.study).prediction
    for part in (kept.graph, kept.manifest):
        damage(blob(hub.data, part.plaintext))
    assert repair(hub, found(hub)) == 2
    study = hub.store.study(clinic.site, kept.study)
    assert (study.prediction, study.complete) == (None, None)
    wanted = dict.fromkeys(kind for _, kind in hub.store.requested_parts(clinic.site))
    assert wanted.keys() == {Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW}
    pipeline = hub.pipeline()
    for part in (kept.graph, kept.manifest):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    assert pipeline.predict_waiting() == 0
    assert hub.store.study(clinic.site, kept.study).prediction == prediction


def test_crops_are_not_requested_again_where_the_originals_are_here(hub: Hub, clinic: Clinic, kept: StudyParts) -> None:
    crops = clinic.seal(Kind.CROPS, kept.study, sample_crops())
    hub.pipeline().put(clinic.site, crops.object, crops.header, crops.plaintext, False)
    damage(blob(hub.data, crops.plaintext))
    assert repair(hub, found(hub)) == 0
    assert hub.store.requested_parts(clinic.site) == [(kept.study, Kind.PREVIEW)]
    study = hub.store.study(clinic.site, kept.study)
    assert (Tier.CROPS in study.sealed_sizes, study.complete) == (False, True)
    assert found(hub) == []


def test_one_blob_of_two_clinics_is_requested_from_both(hub: Hub, clinic: Clinic, kept: StudyParts) -> None:
    other = join(hub, "south-ridge")
    again = other.seal(Kind.ORIGINALS, kept.study, kept.originals.plaintext)
    hub.pipeline().put(other.site, again.object, again.header, again.plaintext, False)
    damage(blob(hub.data, again.plaintext))
    findings = found(hub)
    assert [each.site for each in findings] == [clinic.site, other.site]
    assert repair(hub, findings) == 2
    for site in (clinic.site, other.site):
        assert (kept.study, Kind.ORIGINALS) in hub.store.requested_parts(site)


def test_a_part_of_a_revoked_clinic_is_not_requested_in_vain(hub: Hub, clinic: Clinic, kept: StudyParts) -> None:
    other = join(hub, "south-ridge")
    again = other.seal(Kind.ORIGINALS, kept.study, kept.originals.plaintext)
    hub.pipeline().put(other.site, again.object, again.header, again.plaintext, False)
    hub.enrolment.dismiss(clinic.site)
    path = blob(hub.data, again.plaintext)
    damage(path)
    findings = found(hub)
    assert [(each.site, each.repairable) for each in findings] == [(clinic.site, False), (other.site, True)]
    assert "access is revoked" in findings[0].remedy
    assert repair(hub, findings) == 1
    assert (kept.study, Kind.ORIGINALS) not in hub.store.requested_parts(clinic.site)
    assert [each.site for each in found(hub)] == [clinic.site]  # until the blob is restored
    with pytest.raises(NotEnrolled, match="revoked"):
        hub.store.request(clinic.site, kept.study, Kind.CROPS)
    hub.pipeline().put(other.site, again.object, again.header, again.plaintext, False)
    assert found(hub) == []


def test_a_part_that_came_again_before_the_repair_stays(hub: Hub, clinic: Clinic, kept: StudyParts) -> None:
    path = blob(hub.data, kept.originals.plaintext)
    damage(path)
    findings = found(hub)
    path.write_bytes(kept.originals.plaintext)
    assert repair(hub, findings) == 0
    assert path.read_bytes() == kept.originals.plaintext
    assert found(hub) == []
    assert hub.store.study(clinic.site, kept.study).complete is True


def test_a_part_that_comes_again_during_the_repair_stays(data: Path, hub: Hub, kept: StudyParts) -> None:
    path = blob(data, kept.originals.plaintext)

    def comes(step: str) -> None:
        if step == "check.repair.before_commit":
            part = kept.originals
            assert hub.pipeline().put(SiteName("north-valley"), part.object, part.header, part.plaintext, False)

    damage(path)
    with open_hub(data, FakeClock(), Disk(comes)) as repaired:
        assert repair(repaired, found(repaired)) == 0
        assert found(repaired) == []


def test_a_whole_blob_that_was_set_aside_comes_back(data: Path, hub: Hub, kept: StudyParts) -> None:
    path = blob(data, kept.originals.plaintext)
    damage(path)
    findings = found(hub)
    path.write_bytes(kept.originals.plaintext)
    with (
        pytest.raises(PowerCut),
        open_hub(data, FakeClock(), Disk(Fuse(("check.aside.done", 1)))) as cut,
    ):
        repair(cut, findings)
    assert not path.exists()
    assert repair(hub, found(hub)) == 0
    assert found(hub) == []


def test_a_repair_goes_on_wherever_the_power_is_cut(data: Path, hub: Hub, clinic: Clinic, kept: StudyParts) -> None:
    path = blob(data, kept.originals.plaintext)
    damage(path)
    whole = data.with_name("whole")
    steps: list[str] = []
    shutil.copytree(data, whole)
    with open_hub(whole, FakeClock(), LossyDisk(steps.append)) as rehearsed:
        repair(rehearsed, found(rehearsed))
    assert {"check.aside.before_rename", "check.repair.before_commit", "check.repair.committed"} <= set(steps)
    for step in sorted(set(steps)):
        cut = data.with_name(step)
        shutil.copytree(data, cut)
        with (
            pytest.raises(PowerCut),
            open_hub(cut, FakeClock(), LossyDisk(Fuse((step, 1)))) as broken,
        ):
            repair(broken, found(broken))
        with open_hub(cut, FakeClock()) as again:
            repair(again, found(again))
            assert found(again) == [], step
            assert (kept.study, Kind.ORIGINALS) in again.store.requested_parts(clinic.site)
            assert Tier.ORIGINALS not in again.store.study(clinic.site, kept.study).sealed_sizes


def test_blobs_without_a_row_are_counted_and_kept(hub: Hub, kept: StudyParts, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"of a cut", b"of another"):
        path = blob(hub.data, content)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(blobs_module, "PAGE", 1)
    checked = Checked()
    assert list(check(hub, checked, lambda *_: None)) == []
    assert checked.unnamed_files == 2
    assert hub.store.sweep() == 0
    list(check(hub, again := Checked(), lambda *_: None))
    assert again.unnamed_files == 2


def test_no_blob_is_lost_where_an_older_database_is_restored(
    data: Path, hub: Hub, clinic: Clinic, bundle: Bundle, kept: StudyParts
) -> None:
    restored = shutil.copytree(data, data.with_name("restored"))
    later = study_parts(clinic, bundle, 7).originals
    hub.pipeline().put(clinic.site, later.object, later.header, later.plaintext, False)
    shutil.copytree(data / "blobs", restored / "blobs", dirs_exist_ok=True)
    with open_hub(restored, FakeClock()) as again:
        assert again.store.sweep() == 0
        assert blob(restored, later.plaintext).read_bytes() == later.plaintext
        assert list(check(again, checked := Checked(), lambda *_: None)) == []
        assert checked.unnamed_files == 1


def test_the_command_names_the_study_and_ends_with_a_code(
    data: Path, hub: Hub, clinic: Clinic, bundle: Bundle, kept: StudyParts
) -> None:
    def run(*words: str, code: int) -> str:
        done = CliRunner().invoke(app, ["check", "--data", str(data), *words])
        assert done.exit_code == code, done.output
        return done.stdout

    assert "0 findings in 3 parts, 6 receipts" in run(code=0)
    damage(blob(data, kept.originals.plaintext))
    assert f"part of {kept.study.hex()} (north-valley): originals: the blob is damaged" in run(code=BadFormat.code)
    told = json.loads(run("--json", "--repair", code=BadFormat.code))
    assert told["requested"] == 1
    assert told["checked"]["parts"] == 3
    (finding,) = told["findings"]
    assert (finding["subject"], finding["study"], finding["repairable"]) == ("part", kept.study.hex(), True)
    assert "1 parts" not in run("--repair", code=0)
    other = study_parts(clinic, bundle, 1)
    assert other.study.hex() not in run(code=0)

"""The power is cut between receiving an object and taking its study over: acknowledged bytes are not lost."""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, select

from tests.support.clinic import Clinic
from tests.support.dicoms import DX, STUDY_UID, chest, dicom
from tests.support.power import Fuse, PowerCut
from thinwire.sender.intake.deidentify import Deidentifier, Options, load_key
from thinwire.sender.modality.arrivals import ObjectState, ReceivedObject
from thinwire.sender.outbox import ledger as ledger_module
from thinwire.sender.outbox.tables import ledger, studies, unreadable
from thinwire.sender.service import accept_files
from thinwire.shared.errors import DatabaseBusy
from thinwire.shared.formats.originals import unpack
from thinwire.shared.storage import database

FILES = {f"{STUDY_UID}.1.{n}": dicom(chest(seed=n), SOPInstanceUID=f"{STUDY_UID}.1.{n}") for n in (1, 2)}
HAND = dicom(SOPInstanceUID="1.2.7.1", StudyInstanceUID="1.2.7", BodyPartExamined="HAND")
TRANSACTION = "1.2.3.4"


def view(number: int, **attributes: Any) -> tuple[str, bytes]:
    uid = f"{STUDY_UID}.1.{number}"
    return uid, dicom(chest(seed=number), SOPInstanceUID=uid, **attributes)


FRONTAL, CORRECTED = view(1), view(1, PatientName="CORRECTED^NAME")
EARLY, LATE = view(5, ViewPosition="LL"), view(6, ViewPosition="LL")


def receive(clinic: Clinic, uid: str, study: str, data: bytes) -> None:
    half = clinic.arrivals.incoming / "half"
    half.write_bytes(data)
    clinic.arrivals.keep(half, ReceivedObject(DX, uid, study))
    half.unlink(missing_ok=True)  # as the port does with earlier partial files


def day(clinic: Clinic, acknowledged: set[str]) -> None:
    """A machine sends until all is acknowledged, and the clinic takes it over."""
    clinic.outbox.recover()
    for uid, data in FILES.items():
        if uid not in acknowledged:
            receive(clinic, uid, STUDY_UID, data)
            acknowledged.add(uid)
    if "1.2.7.1" not in acknowledged:
        receive(clinic, "1.2.7.1", "1.2.7", HAND)
        acknowledged.add("1.2.7.1")
    clinic.settle()


def statements(clinic: Clinic) -> list[tuple[str, Any]]:
    """What the clinic's database is asked from now on."""
    seen = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, values))

    event.listen(clinic.database.engine, "before_cursor_execute", note)
    return seen


def steps(folder: Path) -> Counter[str]:
    fuse = Fuse()
    day(Clinic(folder, fuse=fuse), set())
    return Counter(fuse.passed)


def test_wherever_the_power_is_cut_each_study_is_taken_over_once_and_whole(tmp_path: Path) -> None:
    passes = steps(tmp_path / "undisturbed")
    ours = ("arrival", "accept", "quarantine")
    assert {
        "arrival.before_fsync",
        "arrival.row.committed",
        "arrival.complete.before_commit",
        "arrival.ledger.before_commit",
        "arrival.judged.removed",
    } <= set(passes)
    for name, count in sorted(each for each in passes.items() if each[0].startswith(ours)):
        for pass_ in sorted({1, count} if name.startswith("arrival") else {count}):
            folder = tmp_path / f"{name}-{pass_}"
            acknowledged: set[str] = set()
            with pytest.raises(PowerCut):
                day(Clinic(folder, fuse=Fuse((name, pass_))), acknowledged)
            held = set(acknowledged)

            clinic = Clinic(folder)
            assert all(clinic.arrivals.state_of(uid) is not ObjectState.UNKNOWN for uid in held), name
            day(clinic, acknowledged)

            (files,) = clinic.files()
            assert sorted(files) == sorted(FILES.values()), name
            assert {clinic.arrivals.state_of(uid) for uid in FILES} == {ObjectState.ACCEPTED}
            assert clinic.arrivals.state_of("1.2.7.1") is ObjectState.REFUSED
            assert len(clinic.quarantine.reasons()) == 1
            assert clinic.arrivals.waiting() == 0
            assert [each for each in clinic.arrivals.folder.rglob("*") if each.is_file()] == []


def late_day(clinic: Clinic, acknowledged: set[bytes]) -> None:
    """A lateral view before its frontal image, and a view and a corrected header after it."""
    clinic.outbox.recover()
    for sent in ((EARLY,), (FRONTAL,), (LATE, CORRECTED)):
        for uid, data in sent:
            if data not in acknowledged:
                receive(clinic, uid, STUDY_UID, data)
                acknowledged.add(data)
        clinic.settle()


def test_wherever_the_power_is_cut_late_files_and_corrected_headers_are_added_once(tmp_path: Path) -> None:
    fuse = Fuse()
    late_day(Clinic(tmp_path / "undisturbed", fuse=fuse), set())
    passes = Counter(fuse.passed)
    ours = ("accept", "ledger", "quarantine.release", "arrival.ledger")
    assert {"ledger.before_commit", "quarantine.release.before_commit"} <= set(passes)
    for name, count in sorted(each for each in passes.items() if each[0].startswith(ours)):
        folder = tmp_path / name
        acknowledged: set[bytes] = set()
        with pytest.raises(PowerCut):
            late_day(Clinic(folder, fuse=Fuse((name, count))), acknowledged)
        clinic = Clinic(folder)
        clinic.clock.advance(100)
        late_day(clinic, acknowledged)
        assert sorted(clinic.files()) == sorted([data] for _, data in (EARLY, FRONTAL, LATE, CORRECTED)), name
        base = next(each.study for each in clinic.outbox.entries() if each.adds_to is None)
        assert [each.adds_to for each in clinic.outbox.entries() if each.study != base] == [base] * 3, name
        assert clinic.quarantine.count() == 0, name
        assert clinic.arrivals.waiting() == 0


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\0" * 400)])
def test_a_lost_file_is_told_and_stops_nothing_else(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    clinic = Clinic(tmp_path)
    (first, second), other = FILES, "1.2.9.1"
    receive(clinic, first, STUDY_UID, FILES[first])
    (path,) = clinic.arrivals.folder.glob("*.dcm")
    receive(clinic, second, STUDY_UID, FILES[second])
    receive(clinic, other, "1.2.9", dicom(chest(seed=3), SOPInstanceUID=other, StudyInstanceUID="1.2.9"))
    damage(path)
    clinic.settle()

    assert len(clinic.outbox.entries()) == 2
    assert clinic.arrivals.state_of(first) is ObjectState.UNKNOWN
    assert {clinic.arrivals.state_of(uid) for uid in (second, other)} == {ObjectState.ACCEPTED}
    with clinic.database.read() as connection:
        ((name, reason),) = connection.execute(select(unreadable.c.path, unreadable.c.reason)).all()
    assert clinic.data / name == path
    assert "send the study again" in reason
    assert "1 files in arrivals are missing or damaged" in caplog.text

    held = path.exists()
    clinic = Clinic(tmp_path)
    assert path.exists() is held  # kept, although no row of an arrival names it
    receive(clinic, first, STUDY_UID, FILES[first])
    clinic.settle()
    assert clinic.arrivals.state_of(first) is ObjectState.ACCEPTED
    assert len(clinic.outbox.entries()) == 3
    with clinic.database.read() as connection:
        assert connection.execute(select(unreadable)).all() == []


def test_received_objects_outlive_the_restoration_of_an_older_database(tmp_path: Path) -> None:
    """The machine may have removed them: they were acknowledged."""
    clinic = Clinic(tmp_path)
    older = clinic.data.parent / "older.db"
    with contextlib.closing(sqlite3.connect(clinic.database.file)) as source:
        source.execute("VACUUM INTO ?", (str(older),))
    for uid, data in FILES.items():
        receive(clinic, uid, STUDY_UID, data)
    foreign = clinic.arrivals.folder / f"{bytes(16).hex()}.dcm"
    for data in (FILES[f"{STUDY_UID}.1.1"], b"no DICOM"):
        foreign.write_bytes(data)
        clinic.database.close()
        with (
            contextlib.closing(sqlite3.connect(older)) as source,
            contextlib.closing(sqlite3.connect(clinic.database.file)) as target,
        ):
            source.backup(target)
        clinic = Clinic(tmp_path)
        assert [clinic.arrivals.state_of(uid) for uid in FILES] == [ObjectState.PENDING] * 2
        (listed,) = clinic.outbox.unreadable()
        assert clinic.data / listed.path == foreign
        assert foreign.read_bytes() == data
    clinic = Clinic(tmp_path)  # it is listed once
    clinic.settle()
    assert sorted(map(sorted, clinic.files())) == [sorted(FILES.values())]
    assert list(clinic.arrivals.folder.glob("*.dcm")) == [foreign]
    # Judged and not yet removed.
    name = clinic.arrivals._file(clinic.arrivals._name(f"{STUDY_UID}.1.1"))
    name.write_bytes(FILES[f"{STUDY_UID}.1.1"])
    Clinic(tmp_path)
    assert list(clinic.arrivals.folder.glob("*.dcm")) == [foreign]


def test_an_object_that_cannot_be_recorded_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.0)
    clinic = Clinic(tmp_path)
    (first, _) = FILES
    with clinic.database.write(), pytest.raises(DatabaseBusy):
        receive(clinic, first, STUDY_UID, FILES[first])
    assert not list(clinic.arrivals.folder.glob("*.dcm"))
    assert clinic.arrivals.state_of(first) is ObjectState.UNKNOWN


def test_what_was_judged_long_ago_is_forgotten_once_its_study_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_MOST_PURGED", 1)
    clinic = Clinic(tmp_path)
    day(clinic, set())
    receive(clinic, "1.2.8.1", "1.2.8", dicom(SOPInstanceUID="1.2.8.1", StudyInstanceUID="1.2.8", Modality="OT"))
    clinic.clock.advance(86400)
    clinic.settle()
    clinic.arrivals.ledger.purge(clinic.clock.now() - timedelta(hours=1))
    assert {clinic.arrivals.state_of(uid) for uid in FILES} == {ObjectState.ACCEPTED}
    assert clinic.arrivals.state_of("1.2.7.1") is ObjectState.UNKNOWN
    assert clinic.arrivals.state_of("1.2.8.1") is ObjectState.REFUSED
    with clinic.database.write() as connection:
        connection.execute(delete(studies))
    clinic.arrivals.ledger.purge(clinic.clock.now() + timedelta(hours=1))
    with clinic.database.read() as connection:
        assert connection.execute(select(ledger)).all() == []


def test_every_query_goes_by_an_index(tmp_path: Path) -> None:
    """Of what runs for each object or each second, as the statements that the database saw."""
    clinic = Clinic(tmp_path)
    day(clinic, set())
    seen = statements(clinic)
    clinic.arrivals.waiting()
    clinic.arrivals.state_of("1.2.7.1")
    list(clinic.arrivals.complete_studies(1.0))
    clinic.port.commitments.answer()
    clinic.arrivals.ledger.purge(clinic.clock.now())
    clinic.arrivals.record_verdicts({})
    receive(clinic, "1.2.9.1", "1.2.9", dicom(SOPInstanceUID="1.2.9.1", StudyInstanceUID="1.2.9"))
    assert len(seen) >= 9
    with clinic.database.read() as connection:
        for statement, values in seen:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            scans = [row[3] for row in plan if row[3].startswith("SCAN") and "batches" not in row[3]]
            assert not scans, statement


def test_wherever_the_power_is_cut_a_deidentified_study_has_its_original(tmp_path: Path) -> None:
    file = tmp_path / "view.dcm"
    file.write_bytes(FILES[f"{STUDY_UID}.1.1"])

    def give(clinic: Clinic) -> None:
        key = load_key(clinic.data / "keys", clinic.disk, lambda count: b"k" * count)
        clinic.pipeline.deidentifier = Deidentifier(key, Options(), clinic.data / "originals", clinic.disk)
        clinic.outbox.recover()
        assert len(list(accept_files(clinic.pipeline, clinic.quarantine, [file]))) == 1

    whole = Fuse()
    give(Clinic(tmp_path / "whole", fuse=whole))
    steps = [name for name in dict.fromkeys(whole.passed) if name.startswith(("original", "deidentify", "accept"))]
    assert len(steps) >= 12
    for name in steps:
        with pytest.raises(PowerCut):
            give(Clinic(tmp_path / name, fuse=Fuse((name, 1))))
        clinic = Clinic(tmp_path / name)
        give(clinic)
        (entry,) = clinic.outbox.entries()
        (original,) = unpack((clinic.data / "originals" / f"{entry.study.hex()}.archive").read_bytes(), 1 << 26)
        assert original.data == file.read_bytes()

"""A clinic's whole data folder of outbox version 4, brought forward: every row and byte of it, wherever the power is
cut, and whatever of it cannot be read."""

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.support.clinic import Clinic
from tests.support.clock import START, FakeClock
from tests.support.dicoms import CR, DX
from tests.support.power import Fuse, LossyDisk, PowerCut
from tests.support.two_ends import HUB_SIGNING, TwoEnds, until_whole
from thinwire.sender.modality.arrivals import ObjectState
from thinwire.sender.outbox import earlier_rows
from thinwire.sender.outbox.earlier import bring_forward, rehearse_forward, require_forward
from thinwire.sender.outbox.earlier_rows import Forwarded
from thinwire.sender.outbox.entries import OutboxEntry, PartState
from thinwire.sender.outbox.tables import CLINIC, FILE, TABLES, arrivals, batches, commitments
from thinwire.sender.outbox.usage import read_usage
from thinwire.shared.crypto.envelope import Kind, open_sealed
from thinwire.shared.errors import BadConfiguration, Retryable
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import StudyKey, digest
from thinwire.shared.storage.durable import Disk, flock
from thinwire.shared.storage.migrations import create_database, open_database

CLINIC_4 = Path(__file__).parent / "samples" / "clinic-4"
OUTBOX_4 = CLINIC_4 / "outbox"
NOW = START + timedelta(days=2)

DELIVERED = "bf75f502dc0de66d12acc74c1dcbbb5c"
ESCALATED = "b2d0b95b048705d5cdb5de4dd0caa88e"
"""It became urgent, and its crops were requested, when all else of it was at the hub."""
WAITING = "1a55f8d64a241a4fdabc7d4f4ab26658"
REFUSED = "5e120f4ba558e69ac32d5a418d722c2f"
HELD = "21a2df5cd165f1743c9a5f62269656d7"
URGENT = "f059bccbc048b953087ce4b1980f253e"
HALF = "15dcc2b2d15142c986b01f9a8761ed9a"
"""The power was cut while its crops were written."""
ACCEPTED = "4c9e0ba7b408871fa0cdb8cd5f7c0677"
FROM_MACHINE = "2c25de842cd24bcc624715085181a9f3"
STUDIES = {DELIVERED, ESCALATED, WAITING, REFUSED, HELD, URGENT, HALF, ACCEPTED, FROM_MACHINE}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return copied(tmp_path / "clinic")


def copied(data: Path) -> Path:
    shutil.copytree(CLINIC_4, data)
    return data


def forward(data: Path, fuse: Fuse | None = None, again: bool = False) -> Forwarded:
    return bring_forward(data, LossyDisk(fuse or Fuse()), FakeClock(NOW), again)


def opened(data: Path) -> TwoEnds:
    return TwoEnds(data.parent, FakeClock(NOW))


def content(data: Path) -> dict[str, Any]:
    """The rows of the database and the files of the folder, but for the order in which folders are listed."""
    database = open_database(data / FILE, CLINIC)
    with database.read() as connection:
        rows: dict[str, Any] = {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in TABLES.sorted_tables
            if table not in (arrivals, batches)
        }
        joined = select(
            arrivals.c.object, arrivals.c.dataset, arrivals.c.sop_class, batches.c.study, batches.c.complete
        )
        rows["arrivals"] = sorted(map(tuple, connection.execute(joined.join(batches))), key=repr)
        rows["batches"] = len(connection.execute(select(batches)).all())
    database.close()
    files = [path for path in data.rglob("*") if path.is_file() and not path.name.startswith(FILE)]
    rows["files"] = {path.relative_to(data).as_posix(): digest(path.read_bytes()) for path in files}
    rows["folders"] = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_dir()}
    return rows


def test_every_study_is_as_its_state_said(data: Path) -> None:
    assert forward(data) == Forwarded(None, studies=9, objects=5, refused=3)
    outbox = opened(data).outbox
    assert {entry.study.hex() for entry in outbox.entries()} == STUDIES
    for name in STUDIES:
        folder, entry = OUTBOX_4 / name, outbox.entry(StudyKey(bytes.fromhex(name)))
        facts = json.loads((folder / "state.json").read_bytes())
        assert facts == as_state(entry)
        for part in entry.parts:
            file = folder / f"{part.kind.name.lower()}.sealed"
            path = outbox.path(entry.study, part.kind)
            assert (path.read_bytes() if path else None) == (file.read_bytes() if file.exists() else None)
        source, file = outbox.path(entry.study, Kind.SOURCE), folder / "source.sealed"
        assert (source.read_bytes() if source else None) == (file.read_bytes() if file.exists() else None)
        receipts = [read_receipt(each.read_bytes(), HUB_SIGNING.public_key()) for each in folder.glob("receipts/*")]
        assert outbox.receipts(entry.study) == sorted(receipts, key=lambda each: (each.at, each.object or b""))


def as_state(entry: OutboxEntry) -> dict[str, Any]:
    """What version 4 wrote of an entry."""
    return {
        "version": 4,
        "study": entry.study.hex(),
        "accepted": entry.accepted.isoformat(),
        "urgent": entry.urgent,
        "epoch": entry.epoch.hex(),
        "mark": entry.text_mac.hex(),
        "status": entry.status,
        "effort": entry.effort,
        "urged": entry.escalated,
        "paused": entry.paused,
        "warnings": list(entry.warnings),
        "tiers": {kind.name.lower(): when for kind, when in entry.overrides.items()},
        "parts": [
            {
                "kind": part.kind.name.lower(),
                "state": part.state,
                "object": part.object.hex() if part.object else None,
                "size": part.size,
                "plain_size": part.plain_size,
                "requested": part.requested,
                "reason": part.reason,
            }
            for part in entry.parts
        ],
    }


def test_epochs_usage_and_the_pause_are_as_they_were(data: Path) -> None:
    forward(data)
    outbox = opened(data).outbox
    assert outbox.paused
    assert read_usage(outbox.database) == {"2026-02": [70_000_000, 900_000], "2026-03": [1_234_567, 8_910]}
    records = {path.stem: path for path in (OUTBOX_4 / "epochs").glob("*.record")}
    assert len(records) == 2
    for key in outbox.epochs._all():
        assert outbox.epochs.record(key.id) == records[key.id.hex()].read_bytes()
        assert outbox.epochs.is_announced(key.id) is records[key.id.hex()].with_suffix(".announced").exists()


def test_modalities_find_their_objects_and_answers(data: Path, tmp_path: Path) -> None:
    forward(data)
    clinic = Clinic(tmp_path)
    pending = ("1.2.102.23", "1.2.102.24", "1.2.102.25", "1.2.103.26", "1.2.103.27")
    assert {clinic.arrivals.state_of(uid) for uid in pending} == {ObjectState.PENDING}
    assert clinic.arrivals.state_of("1.2.100.21") is ObjectState.ACCEPTED
    assert clinic.arrivals.state_of("1.2.101.22") is ObjectState.REFUSED
    assert clinic.arrivals.waiting() == 3
    (known,) = clinic.arrivals.ledger.all_known(["1.2.100.21"]).values()
    assert (known.sop_class, known.study) == (DX, StudyKey(bytes.fromhex(FROM_MACHINE)))
    ledger = (json.loads(path.read_bytes()) for path in (CLINIC_4 / "arrivals" / "ledger").iterdir())
    assert {known.dataset.hex()} == {each["dataset"] for each in ledger if each["study"]}
    for path in CLINIC_4.glob("arrivals/*/*.dcm"):
        assert (data / "arrivals" / path.name).read_bytes() == path.read_bytes()

    with clinic.database.read() as connection:
        names = connection.execute(select(commitments.c.request)).scalars().all()
    requests = [request for name in names if (request := clinic.port.commitments._read(name))]
    assert {(each.machine, each.transaction, each.objects) for each in requests} == {
        ("XRAY1", "1.2.3.1", ((DX, "1.2.100.21"), (DX, "1.2.102.23"))),
        ("XRAY1", "1.2.3.2", ((CR, "1.2.100.21"), (DX, "1.2.9.9"))),
    }
    assert sum(clinic.port.commitments.report(each) is None for each in requests) == 1

    clinic.settle()  # what was being judged, and one of the others; the late object of the former follows it
    clinic.settle()
    assert {clinic.arrivals.state_of(uid) for uid in pending} == {ObjectState.ACCEPTED}
    assert len(clinic.outbox.entries()) == len(STUDIES) + 3
    assert all(clinic.port.commitments.report(each) for each in requests)
    assert [path for path in clinic.arrivals.folder.rglob("*") if path.is_file()] == []


def test_refused_files_have_their_reasons(data: Path, tmp_path: Path) -> None:
    forward(data)
    clinic = Clinic(tmp_path)
    clinic.quarantine.recover()
    reasons = sorted((json.loads(each.read_bytes()) for each in (CLINIC_4 / "quarantine").glob("*.json")), key=by_time)
    assert clinic.quarantine.reasons() == reasons
    assert [each["kept"] for each in reasons] == [True, False, True]
    for path in (CLINIC_4 / "quarantine").glob("*.refused"):
        assert (data / "quarantine" / path.name).read_bytes() == path.read_bytes()


def by_time(reason: dict[str, Any]) -> tuple[str, str]:
    return reason["at"], reason["digest"]


def test_the_work_goes_on(data: Path) -> None:
    forward(data)
    ends = opened(data)
    for record in (OUTBOX_4 / "epochs").glob("*.record"):
        if record.with_suffix(".announced").exists():
            ends.hub.enrolment.admit_epoch("north-valley", record.read_bytes())  # type: ignore[arg-type]
    missing = {entry.study.hex() for entry in ends.outbox.recover()}
    assert missing == {HALF, ACCEPTED, FROM_MACHINE}
    assert ends.outbox.retry(StudyKey(bytes.fromhex(REFUSED))) == (Kind.PREVIEW,)
    ends.outbox.resume()
    for study in (HELD, WAITING, URGENT, REFUSED):
        ends.outbox.resume(StudyKey(bytes.fromhex(study)))
        for kind in (Kind.CROPS, Kind.ORIGINALS):
            ends.outbox.request(StudyKey(bytes.fromhex(study)), kind)
    until_whole(ends, ends.carry)
    at_hub = {study.hex() for study, _ in ends.parts()}
    assert at_hub == {ESCALATED, WAITING, REFUSED, HELD, URGENT, HALF}  # the others were sent before, or are not made
    for study in (WAITING, REFUSED, HELD, URGENT, ESCALATED):
        states = {part.state for part in ends.outbox.entry(StudyKey(bytes.fromhex(study))).parts}
        assert states <= {PartState.STORED, PartState.ABSENT}


def test_the_old_folders_are_a_safe_copy_without_the_sealed_files(data: Path) -> None:
    forward(data)
    for path in CLINIC_4.rglob("*"):
        name = path.relative_to(CLINIC_4)
        whole = (
            path.is_file() and ".new-" not in str(name) and path.suffix not in (".sealed", ".tmp", ".dcm", ".refused")
        )
        if whole and name.parts[0] != "keys" and name.parts[:2] != ("arrivals", "incoming") and path.suffix != ".lock":
            assert (data / "earlier" / name).read_bytes() == path.read_bytes()
    assert not list((data / "outbox").glob("*/*"))
    assert not list((data / "outbox").glob(".new-*"))
    assert not list((data / "earlier").rglob("*.sealed"))
    assert {path.name for path in (data / "arrivals").iterdir() if path.is_dir()} == {"incoming"}


def test_wherever_the_power_is_cut_the_next_start_ends_the_same(data: Path, tmp_path: Path) -> None:
    undisturbed = Fuse()
    forward(data, undisturbed)
    whole, passes = content(data), Counter(undisturbed.passed)
    steps = {"earlier.link", "earlier.linked", "earlier.before_commit", "earlier.committed", "earlier.moved"}
    assert steps <= set(passes)
    for name, count in passes.items():
        for pass_ in sorted({1, count // 2 + 1, count}):
            cut = copied(tmp_path / f"{name}-{pass_}")
            with pytest.raises(PowerCut):
                forward(cut, Fuse((name, pass_)))
            if name == "earlier.before_folder_fsync":
                # As the file system may have it.
                shutil.rmtree(cut / "blobs")
                for path in (cut / "arrivals").glob("*.dcm"):
                    path.unlink()
            if name != "earlier.moved" or pass_ < count:
                with pytest.raises(BadConfiguration, match="earlier version"):
                    require_forward(cut)
            forward(cut)
            require_forward(cut)
            assert content(cut) == whole, (name, pass_)


def test_a_folder_is_brought_forward_once(data: Path) -> None:
    assert forward(data).found is None
    before = content(data)
    ends = opened(data)
    ends.outbox.resume()
    assert forward(data) == Forwarded(CLINIC.version, needed=False)
    ends.outbox.pause()
    assert content(data) == before


def test_a_rehearsal_counts_and_changes_nothing(data: Path) -> None:
    (data / "outbox" / HALF / "state.json").write_bytes(b"{")
    found = rehearse_forward(data, Disk(), FakeClock(NOW))
    assert found == Forwarded(None, studies=8, objects=5, refused=3, unreadable=1)
    (data / "outbox" / HALF / "state.json").write_bytes((OUTBOX_4 / HALF / "state.json").read_bytes())
    assert {path.relative_to(data) for path in data.rglob("*")} == {
        p.relative_to(CLINIC_4) for p in CLINIC_4.rglob("*")
    }


def changed(**facts: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **facts}).encode()


def first_part(**facts: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        state = json.loads(data)
        state["parts"][0] |= facts
        return json.dumps(state).encode()

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\0" * len(data),
        lambda data: b"[" * 100_000,
        changed(version=5),
        changed(status="archived"),
        changed(effort="best"),
        changed(study=HELD),
        changed(epoch="00"),
        changed(tiers={"film": "always"}),
        first_part(state="lost"),
        first_part(kind="film"),
        first_part(kind="preview"),
        first_part(size=1 << 70),
        first_part(object="00"),
    ],
)
def test_a_state_that_cannot_be_read_is_kept_and_listed_and_stops_no_other(
    data: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    state = data / "outbox" / WAITING / "state.json"
    state.write_bytes(damage(state.read_bytes()))
    before = {path.name: path.read_bytes() for path in state.parent.iterdir()}
    done = forward(data)
    assert (done.studies, done.unreadable) == (8, 1)
    assert {path.name: path.read_bytes() for path in state.parent.iterdir()} == before
    outbox = opened(data).outbox
    assert {entry.study.hex() for entry in outbox.entries()} == STUDIES - {WAITING}
    (found,) = outbox.unreadable()
    assert found.path == f"outbox/{WAITING}"
    assert found.path in caplog.text
    outbox.recover()
    require_forward(data)
    assert forward(data) == Forwarded(CLINIC.version, needed=False)

    # Restored from a backup, it is taken in.
    state.write_bytes((OUTBOX_4 / WAITING / "state.json").read_bytes())
    assert forward(data, again=True).studies == 1
    assert outbox.unreadable() == []
    assert outbox.entry(StudyKey(bytes.fromhex(WAITING))).part(Kind.ORIGINALS).kept
    assert not state.parent.exists()


def test_a_state_that_is_gone_hides_no_sealed_file(data: Path) -> None:
    (data / "outbox" / WAITING / "state.json").unlink()
    forward(data)
    assert [each.path for each in opened(data).outbox.unreadable()] == [f"outbox/{WAITING}"]
    assert len(list((data / "outbox" / WAITING).glob("*.sealed"))) == 5


def test_the_key_of_a_study_that_cannot_be_read_is_kept(data: Path) -> None:
    """Both of its epoch and, since its state does not tell which that is, of others."""
    for name in STUDIES - {DELIVERED, HALF}:
        shutil.rmtree(data / "outbox" / name)
    state = data / "outbox" / HALF / "state.json"
    state.write_bytes(b"")
    forward(data)
    ends = opened(data)
    ends.clock.advance(30 * 86400)
    assert ends.outbox.purge(ends.clock.now()) == 1
    assert len(list((data / "keys" / "epochs").glob("*.key"))) == 2
    state.write_bytes((OUTBOX_4 / HALF / "state.json").read_bytes())
    forward(data, again=True)
    assert ends.outbox.source(StudyKey(bytes.fromhex(HALF)))
    ends.outbox.purge(ends.clock.now())
    assert len(list((data / "keys" / "epochs").glob("*.key"))) == 1


@pytest.mark.parametrize(
    "place", ["outbox/usage.json", "arrivals/ledger/*.json", "arrivals/commitments/*.json", "quarantine/ac*.json"]
)
@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 2}', b"[7]"])
def test_another_file_that_cannot_be_read_is_kept_and_listed(data: Path, place: str, damage: bytes) -> None:
    path = sorted(data.glob(place))[0]
    path.write_bytes(damage)
    assert forward(data).unreadable == 1
    ends = opened(data)
    (found,) = ends.outbox.unreadable()
    assert data / found.path == path
    assert path.read_bytes() == damage
    assert len(ends.outbox.entries()) == len(STUDIES)
    require_forward(data)
    clinic = Clinic(data.parent)
    clinic.quarantine.recover()
    assert len(list((data / "quarantine").glob("*.refused"))) == 2
    assert clinic.quarantine.count() == 3


def test_a_damaged_receipt_is_kept_and_its_study_goes_on(data: Path) -> None:
    path = sorted((data / "outbox" / DELIVERED / "receipts").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert forward(data).unreadable == 1
    ends = opened(data)
    (found,) = ends.outbox.unreadable()
    assert (data / found.path).name == path.name
    assert (data / found.path).read_bytes()[-1:] == b"!"
    entry = ends.outbox.entry(StudyKey(bytes.fromhex(DELIVERED)))
    assert entry.status is StudyStatus.REPORTED
    assert len(ends.outbox.receipts(entry.study)) == 6


def test_damaged_and_lost_sealed_files_are_made_again(data: Path) -> None:
    folder = data / "outbox" / WAITING
    (folder / "preview.sealed").write_bytes(b"short")
    (folder / "crops.sealed").write_bytes(b"\0" * (folder / "crops.sealed").stat().st_size)
    (folder / "graph.sealed").unlink()
    forward(data)
    assert [path.name for path in (data / "earlier" / "outbox" / WAITING).glob("*.sealed")] == ["preview.sealed"]
    ends = opened(data)
    ends.outbox.recover()
    entry = ends.outbox.entry(StudyKey(bytes.fromhex(WAITING)))
    assert entry.missing == (Kind.GRAPH, Kind.PREVIEW, Kind.CROPS)
    assert ends.outbox.source(entry.study)


def test_a_damaged_part_that_is_to_be_made_again_is_not_taken_for_whole(data: Path) -> None:
    state = data / "outbox" / WAITING / "state.json"
    state.write_bytes(first_part(state="missing")(state.read_bytes()))
    graph = data / "outbox" / WAITING / "graph.sealed"
    graph.write_bytes(b"\0" * graph.stat().st_size)
    forward(data)
    outbox = opened(data).outbox
    assert not outbox.entry(StudyKey(bytes.fromhex(WAITING))).part(Kind.GRAPH).kept
    assert (data / "earlier" / "outbox" / WAITING / "graph.sealed").exists()


def test_a_refused_file_whose_reason_was_lost_is_kept(data: Path) -> None:
    sorted((data / "quarantine").glob("ac*.json"))[0].unlink()
    forward(data)
    clinic = Clinic(data.parent)
    clinic.quarantine.recover()
    assert len(list((data / "quarantine").glob("*.refused"))) == 2
    assert clinic.quarantine.reasons()[0]["what"] == "the reason of this refusal was lost"


def test_a_study_that_was_judged_is_not_judged_again(data: Path) -> None:
    done = data / "arrivals" / ("0" * 32 + ".judged")
    shutil.copytree(next((data / "arrivals").glob("*.judging")), done)
    empty = data / "arrivals" / ("1" * 32)
    empty.mkdir()
    assert forward(data).objects == 5
    assert not done.exists()
    assert not empty.exists()
    assert opened(data).outbox.unreadable() == []


def test_an_earlier_version_that_is_run_again_loses_nothing(data: Path) -> None:
    """On a folder that was brought forward it finds no studies, and accepts others beside the database."""
    forward(data)
    outbox = opened(data).outbox
    for folder in (WAITING, ACCEPTED):  # ACCEPTED is sent again; WAITING stands for another study
        shutil.copytree(OUTBOX_4 / folder, data / "outbox" / folder)
    with outbox.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM studies WHERE study = ?", (bytes.fromhex(WAITING),))
    (data / "outbox" / "usage.json").write_bytes(b'{"version": 1, "months": {"2026-03": {"up": 5, "down": 5}}}')
    with pytest.raises(BadConfiguration, match="earlier version"):
        require_forward(data)
    assert forward(data).studies == 1
    assert {entry.study.hex() for entry in outbox.entries()} == STUDIES
    assert outbox.source(StudyKey(bytes.fromhex(WAITING)))
    assert read_usage(outbox.database)["2026-03"] == [1_234_567, 8_910]
    assert (data / "earlier" / "outbox" / f"{ACCEPTED}-2" / "state.json").exists()


@pytest.mark.parametrize("lock", ["link.lock", "stick.lock", "accept.lock"])
def test_a_process_that_uses_the_folder_is_told_to_stop(data: Path, lock: str) -> None:
    with flock(data / "outbox" / lock, fcntl.LOCK_SH), pytest.raises(Retryable, match="another process"):
        forward(data)
    assert not (data / FILE).exists()


def test_a_newer_database_is_refused_and_left_as_it_was(data: Path) -> None:
    create_database(data / FILE, CLINIC)
    database = open_database(data / FILE, CLINIC)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0099'")
    database.close()
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for act in (forward, lambda data: rehearse_forward(data, Disk(), FakeClock(NOW))):
        with pytest.raises(BadConfiguration, match="newer than this program"):
            act(data)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("gone", [["earlier"], ["blobs"], ["earlier", *(f"blobs/{n:02x}" for n in range(256))]])
def test_a_folder_without_its_database_gets_no_empty_one(data: Path, gone: list[str]) -> None:
    forward(data)
    for path in (*data.glob(f"{FILE}*"),):
        path.unlink()
    for each in gone:
        shutil.rmtree(data / each, ignore_errors=True)
    for act in (forward, require_forward):
        with pytest.raises(BadConfiguration, match="is missing"):
            act(data)
    assert not (data / FILE).exists()


def test_a_file_system_without_hard_links_gets_copies(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    forward(data)
    ends = opened(data)
    ends.outbox.recover()
    entry = ends.outbox.entry(StudyKey(bytes.fromhex(WAITING)))
    assert entry.missing == ()
    path = ends.outbox.path(entry.study, Kind.ORIGINALS)
    assert path is not None
    assert open_sealed(path.read_bytes(), ends.outbox.epochs.key)
    assert not list(data.rglob("*.sealed"))


def test_progress_is_told(data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(earlier_rows, "_EVERY", 5)
    with caplog.at_level("INFO", "thinwire"):
        forward(data)
    assert "10 files and folders of an earlier version are read" in caplog.text
    assert "brought forward: 9 studies, 5 objects from modalities, 3 refused files" in caplog.text

"""The power is cut between receiving an object and taking its study over: acknowledged bytes are not lost."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.clinic import Clinic
from tests.support.dicoms import DX, STUDY_UID, chest, dicom
from tests.support.power import Fuse, PowerCut
from thinwire.sender.intake.deidentify import Deidentifier, Options, load_key
from thinwire.sender.modality.arrivals import ObjectState, ReceivedObject
from thinwire.sender.service import accept_files
from thinwire.shared.errors import UidReused
from thinwire.shared.formats.originals import unpack

FILES = {f"{STUDY_UID}.1.{n}": dicom(chest(seed=n), SOPInstanceUID=f"{STUDY_UID}.1.{n}") for n in (1, 2)}
HAND = dicom(SOPInstanceUID="1.2.7.1", StudyInstanceUID="1.2.7", BodyPartExamined="HAND")
TRANSACTION = "1.2.3.4"


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


def steps(folder: Path) -> Counter[str]:
    fuse = Fuse()
    day(Clinic(folder, fuse=fuse), set())
    return Counter(fuse.passed)


def test_wherever_the_power_is_cut_each_study_is_taken_over_once_and_whole(tmp_path: Path) -> None:
    passes = steps(tmp_path / "undisturbed")
    assert {"arrival.before_fsync", "accept.publish.done", "arrival.ledger.done", "arrival.judged.done"} <= set(passes)
    ours = ("arrival", "accept.publish", "quarantine")
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
            assert list(clinic.arrivals.incoming.iterdir()) == []
            assert not list(clinic.arrivals.folder.rglob("*.tmp"))


def test_a_damaged_ledger_entry_costs_a_repeat_and_no_study(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    day(clinic, set())
    for path in (clinic.arrivals.folder / "ledger").glob("*.json"):
        path.write_bytes(b"\0\0")
    day(clinic, {"1.2.7.1"})
    assert len(clinic.outbox.entries()) == 1
    with pytest.raises(UidReused):
        receive(clinic, f"{STUDY_UID}.1.1", STUDY_UID, dicom(chest(seed=5), SOPInstanceUID=f"{STUDY_UID}.1.1"))


def test_what_was_judged_long_ago_is_forgotten_once_its_study_is(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path)
    day(clinic, set())
    clinic.clock.advance(86400)
    clinic.arrivals.purge(clinic.clock.now())
    assert {clinic.arrivals.state_of(uid) for uid in FILES} == {ObjectState.ACCEPTED}
    assert clinic.arrivals.state_of("1.2.7.1") is ObjectState.UNKNOWN


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
    steps = [name for name in dict.fromkeys(whole.passed) if name.startswith(("original", "deidentify", "accept.p"))]
    assert len(steps) >= 12
    for name in steps:
        with pytest.raises(PowerCut):
            give(Clinic(tmp_path / name, fuse=Fuse((name, 1))))
        clinic = Clinic(tmp_path / name)
        give(clinic)
        (entry,) = clinic.outbox.entries()
        (original,) = unpack((clinic.data / "originals" / f"{entry.study.hex()}.archive").read_bytes(), 1 << 26)
        assert original.data == file.read_bytes()
